-- Store a value and void the lease of any computation under way.
-- KEYS[1] the entry   KEYS[2] its lease
-- ARGV[1] not after   ARGV[2] the entry   ARGV[3] its life in ms
-- returns 1
-- include: not_after
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return 1
