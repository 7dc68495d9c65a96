-- Claim one tick of a warmup. The claim has a deadline, so that a tick whose claimer dies is run by another.
-- KEYS[1] the last tick done   KEYS[2] the run under way
-- ARGV[1] not after   ARGV[2] the claimer's token   ARGV[3] the interval in us   ARGV[4] the claim's life in ms
-- returns {tick, 1 go | 0 done already | -1 another runs}
-- include: not_after
local tick = math.floor(now_us / tonumber(ARGV[3]))
if tonumber(redis.call('GET', KEYS[1]) or -1) >= tick then
  return {tick, 0}
end
local runner = redis.call('GET', KEYS[2])
if runner and runner ~= ARGV[2] then
  return {tick, -1}
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[4])
return {tick, 1}
