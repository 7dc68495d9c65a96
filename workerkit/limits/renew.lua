-- Keeps a lease that has not run out, and never brings one back.
-- KEYS: the leases. ARGV: owner; lease in us.
-- Returns 1 when the lease was still held, 0 when it is lost.

-- include: now
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) <= now_us then
  return 0
end
redis.call('ZADD', KEYS[1], now_us + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[2] / 250))
return 1
