-- Answer a caller that found no usable entry: another's value, the right to compute, or that somebody computes already.
-- KEYS[1] the entry   KEYS[2] its lease
-- ARGV[1] not after   ARGV[2] the caller's token   ARGV[3] the lease in ms   ARGV[4] id of the entry it saw, or ''
-- returns {0, entry} a value it has not seen | {1} it leads | {2, ms} somebody else does, for so long at most
-- include: not_after
local entry = redis.call('GET', KEYS[1])
-- An entry of the id that was seen counts as absent: the caller has judged it already (stale, or unreadable).
if entry and string.sub(entry, 8, 15) ~= ARGV[4] then
  return {0, entry}
end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[2] then
  return {2, redis.call('PTTL', KEYS[2])}
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {1}
