-- Turn a lease that one still holds into a pause: until it ends nobody tries again who has an old value to serve.
-- KEYS[1] the lease
-- ARGV[1] the holder's token   ARGV[2] the pause's token   ARGV[3] its length in ms
-- returns 1 it was held | 0 it was not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
