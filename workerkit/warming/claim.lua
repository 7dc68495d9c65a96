-- Claim a tick of a warmup. The claim has a deadline, so that a tick whose claimer dies is run by another.
-- KEYS[1] how the warmup stands   KEYS[2] the run under way
-- ARGV[1] not after   ARGV[2] the claimer's token   ARGV[3] the tick, ms; 0: a run that was asked for by hand
-- ARGV[4] what should be done already, ms, or ''   ARGV[5] the claim's life in ms   ARGV[6] life in ms of what is written
-- returns {'go'} | {'again', token, tick}: that run's message is late, and should be sent again | {'overlap'}: the tick is
-- left out, as another is run | {'busy'} | {'paused'} | {'changed'}: something else is done already
-- include: not_after
local key = KEYS[1]
local known = redis.call('HMGET', key, 'done', 'paused', 'skipped', 'running', 'queued', 'gap')
local done, paused, skipped, running, queued, gap = unpack(known)
local tick, now_ms = tonumber(ARGV[3]), math.floor(now_us / 1000)
local runner = redis.call('GET', KEYS[2])
if runner == ARGV[2] then
  return { 'go' } -- the same claim again
end
if tick > 0 and (done or '') ~= ARGV[4] then
  return { 'changed' }
end
if tick > 0 and paused then
  return { 'paused' }
end
if runner then
  if queued and now_ms - queued > tonumber(gap) then
    redis.call('HSET', key, 'queued', string.format('%.0f', now_ms), 'gap', gap * 2)
    redis.call('PEXPIRE', key, ARGV[6])
    return { 'again', runner, running }
  end
  -- A run by hand leaves no tick out: it is run afterwards.
  if tick == 0 or running == '0' or running == ARGV[3] or tonumber(skipped or 0) >= tick then
    return { 'busy' }
  end
  redis.call('HSET', key, 'skipped', ARGV[3])
  redis.call('HINCRBY', key, 'overlaps', 1)
  redis.call('PEXPIRE', key, ARGV[6])
  return { 'overlap' }
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[5])
redis.call('HSET', key, 'started', string.format('%.0f', now_ms), 'running', ARGV[3])
redis.call('HDEL', key, 'queued', 'gap')
redis.call('PEXPIRE', key, ARGV[6])
return { 'go' }
