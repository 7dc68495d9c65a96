-- GCRA, the generic cell rate algorithm (ITU-T I.371, appendix A; ATM Forum TM 4.0): calls are spaced by T/N, and a
-- burst of b may run ahead: at most b + (N/T) x t in any t.
--
-- A rate remembers how far its theoretical arrival time lay ahead at `base`, in quanta of 1/k us that make the spacing a
-- whole number (rounded up: never faster) of 26 binary digits, and until when calls have been let ahead of their time.
-- base in us, arrival time after base in quanta, log2 k, the latest moment that was given out, since when it is known
local HEAD = '<I7I7BI7I7'
local most, ahead = string.match(ARGV[7], '^(%d+) ?(%d*)')
most, patience = tonumber(most), tonumber(ahead) or 0

local function spread(w)
  local _, spacing = math.frexp(w.period / w.limit)
  local _, period = math.frexp(w.period)
  w.digits = math.max(0, math.min(26 - spacing, 50 - period))
  w.k = 2 ^ w.digits
  -- As far ahead as can be counted exactly: for what is further there is no time to give.
  patience = math.min(patience, 2 ^ 52 / w.k)
  w.space = math.ceil(w.period * w.k / w.limit)
  -- A burst of as many calls at a rate that was brought down would be longer: it would let in more than before.
  local burst = math.min(w.whole, most > 0 and most or math.max(1, math.floor(w.whole / 10)))
  w.burst = math.max(1, math.floor(burst * w.limit / w.whole), math.min(w.cost, w.limit))
end

local function room(w)
  spread(w)
  w.debt, w.given, w.since = 0, 0, now_us
  if not w.fresh then
    local base, debt, digits
    base, debt, digits, w.given, w.since = struct.unpack(HEAD, state, w.at)
    if base > now_us then
      w.given, w.since, base, moved = w.given - (base - now_us), w.since - (base - now_us), now_us, true
    end
    debt = math.min(math.ceil(debt * 2 ^ (w.digits - digits)), 2 ^ 53)
    w.debt = math.max(0, debt - (now_us - base) * w.k)
  end
  return math.max(0, math.ceil((w.debt + (w.cost - w.burst) * w.space) / w.k))
end

local function charge(w, amount, delay)
  delay = delay or 0
  w.debt = math.min(math.max(w.debt, delay * w.k) + amount * w.space, 2 ^ 53)
  w.given = math.max(w.given, now_us + delay)
end

-- Since the call at `stamp` others may have been let in, or been given their time, as if it had its full cost; and the
-- burst may have been full for as long. So much of the refund would come twice.
local function refund(w, stamp, amount)
  local since = math.max(now_us, w.given) - stamp
  if stamp < w.since or since < 0 then
    return -- before a reset or a loss; or by a clock that has been set back
  end
  w.debt = math.max(0, w.debt - math.max(0, amount * w.space - since * w.k))
end

local function packed(w)
  if w.debt <= 0 then
    return nil
  end
  w.ends = now_us + math.ceil(w.debt / w.k)
  return struct.pack(HEAD, now_us, w.debt, w.digits, w.given, w.since), ''
end

local function left(w)
  return math.floor((w.burst * w.space - w.debt) / w.space)
end

local function resets(w)
  return math.ceil(w.debt / w.k)
end
