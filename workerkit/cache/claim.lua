-- Answer a caller that found no usable entry: another's value, the right to compute, or why it should not.
-- KEYS[1] the entry   KEYS[2] its lease
-- ARGV[1] not after   ARGV[2] the caller's token   ARGV[3] the lease in ms   ARGV[4] id of the entry it saw, or ''
-- ARGV[5] the kinds of lease it gives way to: c computing, q a queued refresh, b backing off after a failure
-- returns {0, entry} a value it has not seen | {1, now} it leads since then | {2, holder's token} it does not
-- include: not_after
-- What is no string was not written here: it is overwritten.
local function read(key)
  local data = redis.pcall('GET', key)
  return type(data) == 'string' and data
end
local entry = read(KEYS[1])
-- An entry of the id that was seen counts as absent: the caller has judged it already (stale, or unreadable).
if entry and string.sub(entry, 8, 15) ~= ARGV[4] then
  return {0, entry}
end
local holder = read(KEYS[2])
if holder and holder ~= ARGV[2] then
  -- A queued or put off refresh is nobody's computation yet: who has no old value to serve goes ahead.
  if string.find(ARGV[5], string.sub(holder, 1, 1), 1, true) then
    return {2, holder}
  end
end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {1, string.format('%.0f', now_us)}
