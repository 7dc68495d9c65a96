-- What was asked, and what is known of this limiter key: `rates`, each with its `period`, `limit`, `cost` and `unit`.
--
-- KEYS: the state; the pause; the rates that were configured for this key; the leases.
-- ARGV: not after; what to do; cap on holders (0: none); lease in us; owner; the rates' units, each followed by a
-- comma ("" for calls); burst and what else the script takes; then per rate its period in us, limit and cost.
--
-- The state is one string: the units of which more is known than charges, then every rate with what its algorithm
-- remembers. Of a unit: what unanswered requests hold; what the called API said is left, and until when; to how much
-- of a rate it has brought us down (in 1/1000), and until when. Of a rate: its unit, its period, when it may be forgotten.
local UNIT, RATE = '<Bc0I7I7I7HI7', '<Bc0I7I7I4'
local stored = redis.call('MGET', KEYS[1], KEYS[2], KEYS[3])
local state, cap, lease, owner = stored[1] or '', tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local configured = stored[3] and cjson.decode(stored[3]) or {}

-- Where a rate is found; a number where it counts calls, as making text costs more than the rest of it.
local function place(unit, period)
  return unit == '' and period or string.format('%.0f', period) .. unit
end

local units, windows, at = {}, {}, 2
for _ = 1, #state > 0 and string.byte(state) or 0 do
  local unit = {}
  unit.name, unit.held, unit.left, unit.till, unit.scale, unit.scaled, at = struct.unpack(UNIT, state, at)
  -- Both last an hour at most when they are learned. What ends much later was learned under a clock that has been set
  -- back since, and would last for as long as that.
  if unit.till > now_us + 3600000000 then
    unit.till = 0
  end
  if unit.scaled <= now_us or unit.scaled > now_us + 7200000000 then
    unit.scale, unit.scaled = 1000, 0
  end
  units[unit.name] = unit
end
while at <= #state do
  -- Made at once with all that it will hold: a table that grows is copied at every doubling.
  local size
  local w = { start = at, stop = 0, at = 0, unit = '', period = 0, ends = 0, limit = 0, cost = 0,
    q = 0, used = 0, n = 0, base = 0, first = 0, last = 0, width = 0, size = 0, records = false }
  w.unit, w.period, w.ends, size, w.at = struct.unpack(RATE, state, at)
  at = w.at + size
  w.stop = at - 1
  windows[place(w.unit, w.period)] = w
end

local function unit_of(name)
  units[name] = units[name] or { name = name, held = 0, left = 0, till = 0, scale = 1000, scaled = 0 }
  return units[name]
end

local function rate_of(period, limit, cost, unit)
  period = tonumber(period)
  local w = windows[place(unit, period)] or { period = period, unit = unit, fresh = true }
  w.limit, w.cost, w.known = tonumber(limit), tonumber(cost), units[unit]
  w.whole = w.limit
  if w.known and not configured.rates then
    w.limit = math.max(w.cost, math.floor(w.limit * w.known.scale / 1000))
  end
  return w
end

local rates, costs, longest = {}, {}, 0
local name = ARGV[6] ~= '' and string.gmatch(ARGV[6], '([^,]*),')
for i = 8, #ARGV - 2, 3 do
  local unit = name and name() or ''
  costs[unit] = ARGV[i + 2]
  if not configured.rates then
    rates[#rates + 1] = rate_of(ARGV[i], ARGV[i + 1], ARGV[i + 2], unit)
  end
end
for _, rate in ipairs(configured.rates or {}) do
  if not costs[rate.unit] then
    return redis.error_reply('ERR this limiter key is configured for ' .. rate.unit .. ', which the caller does not count')
  end
  local w = rate_of(rate.period, rate.limit, costs[rate.unit], rate.unit)
  w.text = rate.text
  rates[#rates + 1] = w
end
cap = cap > 0 and configured.cap or cap -- 0: within a slot that its task holds, which takes no second place
for _, w in ipairs(rates) do
  longest = math.max(longest, w.period)
end

-- Puts what the owner of a lease holds, as its name says, into the sums of its units (sign 1), or takes it out (-1).
local function hold(amounts, sign)
  for unit, cost in pairs(amounts) do
    unit_of(unit).held = math.max(0, unit_of(unit).held + sign * cost)
  end
end

local function held_by(name)
  local amounts = {}
  for unit, cost in string.gmatch(string.match(name, '|(.*)') or '', '([^=;]*)=(%d+)') do
    amounts[unit] = tonumber(cost)
  end
  return amounts
end

-- Requests without an answer. One whose lease ran out was killed, or cut off: it counts for a period from that moment.
local late, gone, holding = {}, false, false
for _, unit in pairs(units) do
  holding = holding or unit.held > 0
end
if holding then
  local ended = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now_us, 'WITHSCORES')
  for i = 1, #ended, 2 do
    local ended_at, amounts = tonumber(ended[i + 1]), held_by(ended[i])
    if ended_at + longest > now_us then
      late[#late + 1] = { at = ended_at, costs = amounts }
    else
      gone = true
      hold(amounts, -1)
    end
  end
  if #ended == 0 and redis.call('EXISTS', KEYS[4]) == 0 then
    for _, unit in pairs(units) do
      unit.held = 0
    end
  end
end

-- What is held in this rate's unit, without what has left its period.
local function held(w)
  local sum = w.known and w.known.held or 0
  if sum == 0 then
    return 0
  end
  for _, each in ipairs(late) do
    if each.at + w.period <= now_us then
      sum = sum - (each.costs[w.unit] or 0)
    end
  end
  return math.max(0, sum)
end

-- How long `over` of this rate's unit must wait until late answers have been given up; nil when only answers will do.
local function until_late(w, over, wait)
  for _, each in ipairs(late) do
    if over > 0 and each.at + w.period > now_us then
      over, wait = over - (each.costs[w.unit] or 0), math.max(wait, each.at + w.period - now_us)
    end
  end
  return over <= 0 and wait or nil
end

-- Set by the algorithms: the server's clock was set back, which must be written down whatever the answer; how far ahead
-- of itself a call may be charged.
local moved, patience = false, nil
