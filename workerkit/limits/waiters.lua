-- Lists somebody who waits, or only answers who does.
-- KEYS[1] those who wait, by the server time (us) at which they give up
-- ARGV[1] who, '' for nobody   ARGV[2] for how long, in us
-- Returns those who wait.

-- include: now
if ARGV[1] ~= '' then
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_us)
  redis.call('ZADD', KEYS[1], now_us + ARGV[2], ARGV[1])
  local last = redis.call('ZRANGE', KEYS[1], -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIRE', KEYS[1], math.ceil((last - now_us) / 1000))
end
return redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now_us), '+inf')
