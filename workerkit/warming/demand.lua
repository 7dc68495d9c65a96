-- Add a process's counts of calls to the fleet's, which fade by half in each half-life.
-- KEYS[1] counts, each as heavy as the moment at which it came   KEYS[2] the calls' arguments; at '' when weights began
-- ARGV[1] not after   ARGV[2] how many calls are kept   ARGV[3] the half-life in ms   ARGV[4] life in ms
-- ARGV[5...] a call, its count, its arguments or '' where they should be known
-- returns how many are kept
-- include: not_after
local counts, calls, cap, half = KEYS[1], KEYS[2], tonumber(ARGV[2]), ARGV[3] * 1000
local began = tonumber(redis.call('HGET', calls, ''))
if not began or redis.call('EXISTS', counts) == 0 then -- one was evicted: the other has lost its meaning
  redis.call('UNLINK', counts, calls)
  began = now_us
end
local age = (now_us - began) / half
if age > 500 then -- before weights grow out of what a double holds
  local all = redis.call('ZRANGE', counts, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    redis.call('ZADD', counts, string.format('%.17g', all[i + 1] * 2 ^ -age), all[i])
  end
  began, age = now_us, 0
end
redis.call('HSET', calls, '', string.format('%.0f', began))
for i = 5, #ARGV, 3 do
  redis.call('ZINCRBY', counts, string.format('%.17g', ARGV[i + 1] * 2 ^ age), ARGV[i])
  if ARGV[i + 2] ~= '' then
    redis.call('HSET', calls, ARGV[i], ARGV[i + 2])
  end
end
local kept = redis.call('ZCARD', counts)
if kept > cap then
  for _, member in ipairs(redis.call('ZRANGE', counts, 0, kept - cap - 1)) do
    redis.call('ZREM', counts, member)
    redis.call('HDEL', calls, member)
  end
  kept = cap
end
redis.call('PEXPIRE', counts, ARGV[4])
redis.call('PEXPIRE', calls, ARGV[4])
return kept
