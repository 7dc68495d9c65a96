-- Count a process as alive, and those no longer that have not said so in time.
-- KEYS[1] the processes by the server time (us) until which they count
-- ARGV[1] which one   ARGV[2] for how long, in ms
-- returns how many are alive
-- include: now
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_us)
redis.call('ZADD', KEYS[1], now_us + ARGV[2] * 1000, ARGV[1])
-- As long as the last of them: another process may have been given more time.
local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
redis.call('PEXPIRE', KEYS[1], math.ceil((last - now_us) / 1000))
return redis.call('ZCARD', KEYS[1])
