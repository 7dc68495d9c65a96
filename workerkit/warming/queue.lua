-- Leave a run to a message, which is to be sent again when nobody has begun it for long.
-- KEYS[1] how the warmup stands   KEYS[2] the run under way
-- ARGV[1] not after   ARGV[2] the claimer's token   ARGV[3] the message's token   ARGV[4] how long a message may be on its
-- way, ms   ARGV[5] when it is due, ms from now   ARGV[6] how late it may be before it is sent again, ms
-- ARGV[7] life in ms of what is written
-- returns 1 | 0 it is not this claimer's any more
-- include: not_after
local holder = redis.call('GET', KEYS[2])
if holder ~= ARGV[2] and holder ~= ARGV[3] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4] + ARGV[5])
redis.call('HSET', KEYS[1], 'queued', string.format('%.0f', math.floor(now_us / 1000) + ARGV[5]), 'gap', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return 1
