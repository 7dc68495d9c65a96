-- End a run: its tick is done, and so are those that came meanwhile.
-- KEYS[1] how the warmup stands   KEYS[2] the run under way   KEYS[3] the runs before, the newest first
-- ARGV[1] the claimer's token   ARGV[2] the tick, ms, or '' for a run by hand   ARGV[3] life in ms of what is written
-- ARGV[4] ticks that were left out before this one   ARGV[5] how many runs are kept   ARGV[6] the run, as JSON
-- returns 1 | 0 it did not hold the claim any more: what it did stands, and another does the tick again
-- include: now
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
local key = KEYS[1]
local done, skipped = unpack(redis.call('HMGET', key, 'done', 'skipped'))
if ARGV[2] ~= '' then
  local newest = math.max(tonumber(ARGV[2]), tonumber(done or 0), tonumber(skipped or 0))
  redis.call('HSET', key, 'done', string.format('%.0f', newest))
  redis.call('HINCRBY', key, 'missed', ARGV[4])
end
redis.call('HSET', key, 'ended', string.format('%.0f', now_us / 1000), 'run', ARGV[6])
redis.call('HINCRBY', key, 'runs', 1)
redis.call('HDEL', key, 'running')
redis.call('DEL', KEYS[2])
redis.call('LPUSH', KEYS[3], ARGV[6])
redis.call('LTRIM', KEYS[3], 0, ARGV[5] - 1)
redis.call('PEXPIRE', key, ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
return 1
