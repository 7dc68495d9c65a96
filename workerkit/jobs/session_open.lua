-- `open` answers the ms until a session's absolute end to who has its secret and comes in time; `slide` begins the idle
-- time anew, which never outlasts that end.
-- include: now
local key = KEYS[1]
local digest, expires, idle, owner = unpack(redis.call('HMGET', key, 'digest', 'expires', 'idle', 'owner'))
local function open(wanted)
  local left = digest == wanted and math.floor((expires - now_us) / 1000) or 0
  return left > 0 and left
end

local function slide(left)
  local ms = math.min(tonumber(idle), left)
  redis.call('PEXPIRE', key, string.format('%.0f', ms))
  return ms
end
