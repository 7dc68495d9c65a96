-- Claim a tick of a warmup. The claim has a deadline, so that a tick whose claimer dies is run by another.
-- KEYS[1] how the warmup stands   KEYS[2] the run under way
-- ARGV[1] not after   ARGV[2] the claimer's token   ARGV[3] the tick, ms   ARGV[4] what should be done already, ms, or ''
-- ARGV[5] the claim's life in ms   ARGV[6] life in ms of what is written   ARGV[7] '1': a run that was asked for by hand
-- returns 'go' | 'overlap' | 'paused' | 'changed': something else is done already
-- include: not_after
local key = KEYS[1]
local done, paused, skipped = unpack(redis.call('HMGET', key, 'done', 'paused', 'skipped'))
local byhand = ARGV[7] == '1'
if not byhand and (done or '') ~= ARGV[4] then
  return 'changed'
end
if not byhand and paused then
  return 'paused'
end
local runner = redis.call('GET', KEYS[2])
if runner == ARGV[2] then
  return 'go' -- the same claim again
end
if runner then
  if not byhand and tonumber(skipped or 0) < tonumber(ARGV[3]) then
    redis.call('HSET', key, 'skipped', ARGV[3])
    redis.call('HINCRBY', key, 'overlaps', 1)
    redis.call('PEXPIRE', key, ARGV[6])
  end
  return 'overlap'
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[5])
redis.call('HSET', key, 'started', string.format('%.0f', now_us / 1000), 'running', ARGV[3])
redis.call('PEXPIRE', key, ARGV[6])
return 'go'
