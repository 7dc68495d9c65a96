-- Keeps a lease that has not run out, and never brings one back.
-- KEYS: the leases; the state, which says what the lease holds. ARGV: owner; lease in us; how long both are kept, in ms.
-- Returns 1 when the lease was still held, 0 when it is lost.

-- include: now
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) <= now_us then
  return 0
end
redis.call('ZADD', KEYS[1], now_us + ARGV[2], ARGV[1])
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', key, ARGV[3])
  end
end
return 1
