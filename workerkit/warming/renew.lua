-- Keep a claim alive, or hand it over.
-- KEYS[1] the run under way   ARGV[1] the claimer's token   ARGV[2] the claim's life in ms   ARGV[3] whose it is then
-- returns 1 | 0 it is not this claimer's any more
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[2])
return 1
