-- Keep a claim alive, or begin the run of a message.
-- KEYS[1] how the warmup stands   KEYS[2] the run under way   ARGV[1] the claimer's token   ARGV[2] the claim's life in ms
-- returns 1 | 0 it is not this claimer's any more
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[1], 'queued', 'gap')
return 1
