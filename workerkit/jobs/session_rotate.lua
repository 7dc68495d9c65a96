-- Give a session another id; its data and its absolute end stay. The same rotation again changes nothing more.
-- KEYS[1] the record
-- ARGV[1] the digest of its id   ARGV[2] that of the new one   ARGV[3] the owner it gets, or ''
-- returns its absolute end in ms since 1970 | 'OWNER' it is another's | nil when there is no such session
-- include: session_open
local left = open(ARGV[1]) or open(ARGV[2])
if not left then
  return false
end
if ARGV[3] ~= '' then
  if owner and owner ~= ARGV[3] then
    return 'OWNER'
  end
  redis.call('HSET', key, 'owner', ARGV[3])
end
redis.call('HSET', key, 'digest', ARGV[2])
slide(left)
return math.ceil(expires / 1000)
