-- Invalidate what is under a tag: give it a newer version.
-- KEYS[1] the tag's marker
-- ARGV[1] three random digits   ARGV[2] its life in ms, at least
-- returns the version
-- include: now
local version = redis.call('GET', KEYS[1])
local life = tonumber(ARGV[2])
if version then
  life = math.max(life, redis.call('PTTL', KEYS[1]))
  -- Later than the last one even when the clock was set back.
  now_us = math.max(now_us, tonumber(string.sub(version, 1, -4)) + 1)
end
version = string.format('%.0f', now_us) .. ARGV[1]
redis.call('SET', KEYS[1], version, 'PX', life)
return version
