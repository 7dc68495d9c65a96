-- Take a job out of the index, unless more has become known of it since.
-- KEYS[1] all   KEYS[2] what is known of each   KEYS[3...] wherever else it is
-- ARGV[1] its id   ARGV[2] what was known of it, or '' for nothing
-- returns 1 | 0 more is known
if (redis.call('HGET', KEYS[2], ARGV[1]) or '') ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
for i, key in ipairs(KEYS) do
  if i ~= 2 then
    redis.call('ZREM', key, ARGV[1])
  end
end
return 1
