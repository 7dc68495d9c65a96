-- Add a process's counts to the fleet's: to the totals, and to the hour's bucket of the busiest keys.
-- A bucket counts in its clock hour and the one after; then its key is the next bucket's, so two keys do.
-- KEYS[1] the totals   KEYS[2] the bucket of even hours   KEYS[3] the bucket of odd ones
-- ARGV[1] not after   ARGV[2] life of the totals in ms   ARGV[3..5] admitted, refused, unseen
-- ARGV[6], ARGV[7], ... member, number, member, number; a member is '+' or '-' (admitted, refused) and a key
-- returns 1
-- include: not_after
local KEPT = 1000
local hour = math.floor(now_us / 3600000000)
local bucket = KEYS[2 + hour % 2]
for i, name in ipairs({ 'admitted', 'refused', 'unseen' }) do
  redis.call('HINCRBY', KEYS[1], name, ARGV[2 + i])
end
-- What is under this key is two hours old or more and has expired, unless the clock was set.
if tonumber(redis.call('HGET', KEYS[1], 'hour')) ~= hour then
  redis.call('HSET', KEYS[1], 'hour', hour)
  redis.call('DEL', bucket)
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 6, #ARGV, 2 do
  redis.call('ZINCRBY', bucket, ARGV[i + 1], ARGV[i])
end
redis.call('ZREMRANGEBYRANK', bucket, 0, -KEPT - 1)
redis.call('PEXPIREAT', bucket, string.format('%.0f', (hour + 2) * 3600000))
return 1
