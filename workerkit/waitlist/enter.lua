-- Whether this delivery of a throttled task's message may go on, or is a spent duplicate.
-- KEYS[1] the task's record   KEYS[2] due times   KEYS[3] tickets
-- ARGV[1] not after   ARGV[2] ticket id   ARGV[3] the message's generation   ARGV[4] its publication id   ARGV[5] record's life in ms
-- returns 1 go on | 0 drop
-- include: not_after
local gen, pub = tonumber(ARGV[3]), ARGV[4]
local record = redis.call('HMGET', KEYS[1], 'gen', 'pub')
local known = tonumber(record[1] or -1)
if gen < known then
  return 0
end
-- The same publication again is a redelivery after a crash; another one of this generation has been superseded.
if gen == known and record[2] ~= '' and record[2] ~= pub then
  return 0
end
redis.call('HSET', KEYS[1], 'gen', gen, 'pub', pub)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[3], ARGV[2])
return 1
