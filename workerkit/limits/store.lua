-- Writes the state down, with every rate of this request as its algorithm packs it.
local function alive(unit)
  return unit.held > 0 or unit.till > now_us or unit.scaled > now_us
end

local function store()
  if gone then
    redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now_us - longest)
  end
  local parts, count, ends = { '' }, 0, now_us
  for _, unit in pairs(units) do
    if alive(unit) and count < 255 then
      count = count + 1
      parts[#parts + 1] =
        struct.pack(UNIT, #unit.name, unit.name, unit.held, unit.left, unit.till, unit.scale, unit.scaled)
      ends = math.max(ends, unit.till, unit.scaled, unit.held > 0 and now_us + lease * 4 + longest or 0)
    end
  end
  parts[1] = string.char(count)
  for _, w in ipairs(rates) do
    windows[place(w.unit, w.period)] = nil
    local head, rest = packed(w)
    if head then
      local n = #parts
      parts[n + 1] = struct.pack(RATE, #w.unit, w.unit, w.period, w.ends, #head + #rest)
      parts[n + 2], parts[n + 3] = head, rest
      ends = math.max(ends, w.ends)
    end
  end
  for _, w in pairs(windows) do
    -- A rate of another definition, that older or newer processes may still have: theirs to count, not ours to forget.
    if w.ends > now_us then
      parts[#parts + 1] = string.sub(state, w.start, w.stop)
      ends = math.max(ends, w.ends)
    end
  end
  if #parts > 1 then
    redis.call('SET', KEYS[1], table.concat(parts), 'PX', math.floor((ends - now_us) / 1000) + 1000)
  elseif #state > 0 then
    redis.call('DEL', KEYS[1])
  end
end
