-- How a job stands and what has happened to it, both of the same moment.
-- KEYS[1] the record   KEYS[2] its events
-- ARGV[1] the first event asked for, as XRANGE takes it, or '' for none   ARGV[2..] fields of the record: `version`, ...
-- returns {now, how many events are kept, first id, last id, {value, ...}, {{id, {name, value, ...}}, ...}}
--   | nil when there is no record
-- include: now
local found = redis.call('HMGET', KEYS[1], unpack(ARGV, 2))
if not found[1] then
  return false
end
local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1]
local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local events = ARGV[1] ~= '' and redis.call('XRANGE', KEYS[2], ARGV[1], '+') or {}
return {now_us, redis.call('XLEN', KEYS[2]), first and first[1] or '0-0', last and last[1] or '0-0', found, events}
