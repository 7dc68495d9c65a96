-- Keep, or give up, a lease that one still holds.
-- KEYS[1] the lease
-- ARGV[1] the holder's token   ARGV[2] its new life in ms; 0 gives it up
-- returns 1 it was held | 0 it was not
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 1
