-- Forget a ticket whose task has ended without entering: it expired, or was revoked.
--
-- KEYS: see state. ARGV: not after; id.
-- Returns 1 when there was one.

-- include: not_after
-- include: state
local i = info_of(ARGV[2])
if i then
  forget(ARGV[2], i)
  -- Whoever waits for it was told: another publication, in a queue still, must not go on.
  redis.call('HSET', record, 'generation', i.generation, 'publication', 'ended')
  redis.call('PEXPIRE', record, LIFE)
end
return i and 1 or 0
