-- List functions that have a ledger, and forget those that were not listed for long.
-- KEYS[1] the index
-- ARGV[1] how long one is listed, in ms   ARGV[2], ARGV[3], ... names
-- returns 1
-- include: now
local now_ms = math.floor(now_us / 1000)
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], now_ms, ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
