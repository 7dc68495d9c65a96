-- Begin a session. A record that is there already is never adopted; the same create again is the same session.
-- KEYS[1] the record
-- ARGV[1] the digest of its id   ARGV[2] idle in ms   ARGV[3] absolute in ms   ARGV[4] bytes of data
-- ARGV[5] its owner, or ''   the pairs after it: fields
-- returns now | nil
-- include: now
local key = KEYS[1]
local held = redis.call('HGET', key, 'digest')
if held and held ~= ARGV[1] then
  return false
end
redis.call('HSET', key, 'digest', ARGV[1], 'created', string.format('%.0f', now_us), 'idle', ARGV[2],
  'expires', string.format('%.0f', now_us + ARGV[3] * 1000), 'size', ARGV[4])
if ARGV[5] ~= '' then
  redis.call('HSET', key, 'owner', ARGV[5])
end
for i = 6, #ARGV, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', key, ARGV[2])
return now_us
