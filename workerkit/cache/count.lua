-- Add a process's counts to the fleet's.
-- KEYS[1] the ledger of one function
-- ARGV[1] not after   ARGV[2] its life in ms   ARGV[3], ARGV[4], ... name, number, name, number
-- returns 1
-- include: not_after
for i = 3, #ARGV, 2 do
  redis.call('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
