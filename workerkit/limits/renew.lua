-- Keeps a lease that has not run out, and never brings one back.
-- KEYS: the leases; the state, which says what the lease holds; the rates that were configured. ARGV: owner; lease in
-- us; how long both are kept, in ms (for longer where longer periods were configured).
-- Returns 1 when the lease was still held, 0 when it is lost.

-- include: now
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) <= now_us then
  return 0
end
redis.call('ZADD', KEYS[1], now_us + ARGV[2], ARGV[1])
local kept, configured = tonumber(ARGV[3]), redis.call('GET', KEYS[3])
for _, rate in ipairs(configured and cjson.decode(configured).rates or {}) do
  kept = math.max(kept, math.ceil((ARGV[2] * 4 + rate.period) / 1000))
end
for k = 1, 2 do
  if redis.call('PTTL', KEYS[k]) < kept then
    redis.call('PEXPIRE', KEYS[k], kept)
  end
end
return 1
