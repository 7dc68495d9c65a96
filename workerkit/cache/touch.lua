-- Read the version of a tag; give it one when it has none, and see to it that it outlives the entries under it.
-- KEYS[1] the tag's marker
-- ARGV[1] three random digits   ARGV[2] its life in ms
-- returns {version, 1 when it had none}
-- include: now
local version = redis.call('GET', KEYS[1])
if version then
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
    -- Twice as long, so that not every store extends it: whoever keeps entries in the process is told of each change.
    redis.call('PEXPIRE', KEYS[1], 2 * ARGV[2])
  end
  return {version, 0}
end
version = string.format('%.0f', now_us) .. ARGV[1]
redis.call('SET', KEYS[1], version, 'PX', 2 * ARGV[2])
return {version, 1}
