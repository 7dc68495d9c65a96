-- Store what the leader computed, if its lease still stands: an invalidation takes the lease away.
-- KEYS[1] the entry   KEYS[2] its lease
-- ARGV[1] not after   ARGV[2] the leader's token   ARGV[3] the entry   ARGV[4] its life in ms
-- returns 1 stored | 0 refused
-- include: not_after
if redis.call('GET', KEYS[2]) ~= ARGV[2] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
redis.call('DEL', KEYS[2])
return 1
