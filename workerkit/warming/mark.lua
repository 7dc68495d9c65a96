-- Leave ticks out: what is due next comes after them.
-- KEYS[1] how the warmup stands
-- ARGV[1] not after   ARGV[2] what should be done already, ms, or ''   ARGV[3] the newest tick that is left out, ms
-- ARGV[4] how many   ARGV[5] life in ms of what is written
-- returns 1 | 0 something else is done already
-- include: not_after
local key = KEYS[1]
if (redis.call('HGET', key, 'done') or '') ~= ARGV[2] then
  return 0
end
redis.call('HSET', key, 'done', ARGV[3])
redis.call('HINCRBY', key, 'missed', ARGV[4])
redis.call('PEXPIRE', key, ARGV[5])
return 1
