-- What happened to a job, for those who watch it: its last few hundred events, which live as long as the record.
local function event(kind, pairs)
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', 200, '*', 'kind', kind, unpack(pairs or {}))
end

-- Both live this many ms from now, and no longer than until `expires` (us).
local function live(ms, expires)
  local left = string.format('%.0f', math.max(1, math.min(tonumber(ms), math.floor((tonumber(expires) - now_us) / 1000))))
  redis.call('PEXPIRE', KEYS[1], left)
  redis.call('PEXPIRE', KEYS[2], left)
end
