-- Forget the ticket of a delivery that the limiter lets go on.
--
-- KEYS: see state. ARGV: not after; id; the message's generation; its publication.
-- Returns 0 when the ticket has been published again since that entered, or was cancelled: then only the next delivery
-- may go on, or be revoked.

-- include: not_after
-- include: state
local id, generation, publication = ARGV[2], tonumber(ARGV[3]), ARGV[4]
local known = redis.call('HMGET', record, 'generation', 'publication')
if known[1] and (tonumber(known[1]) > generation or known[2] ~= publication) then
  return 0
end
local i = info_of(id)
if i and i.cancelled == '1' then
  return 0
end
if i then
  forget(id, i)
end
return 1
