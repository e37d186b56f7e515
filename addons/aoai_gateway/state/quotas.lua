-- Quotas in Redis: one call of this script is one decision, atomic by Redis's own rule.
--
-- The arithmetic is that of aoai_gateway.quota.window and .counters (read the theory there); this
-- is its transcript over Redis types. Time is Redis's alone, in integer microseconds: the loader
-- puts a function clock() before this text. Numbers stay below 2^53, where doubles are exact.
--
-- KEYS   1 leases   sorted set: reservation id -> end of its lease, or of its time as a lapsed one
--        2 holds    hash: reservation id -> what it has booked (JSON)
--        3 budgets  hash: "<deployment> <d|m><period> <s|r>" -> settled or reserved tokens,
--                   "<deployment> open <t|r>" -> tokens or requests of the window that running calls hold,
--                   "pruned" -> how far fields of past periods were removed
--        then for each quota
--          window   sorted set: bucket "<number>:<first stamp>" -> its last stamp
--          sums     hash: tokens, requests, debt, numbered (as in a Window), and "<bucket>:t",
--                   "<bucket>:r": what each bucket holds
--        last:
--          ended    string, for some minutes: this reservation was settled or charged. An answer can
--                   be lost after the script has run, and the call is charged again then.
-- All keys of a client carry its name as hash tag, so they share a slot of a cluster.
--
-- ARGV   1 operation: peek | reserve | book | charge | settle | cancel
--        2 reservation id   3 lease (us)   4 age (us; book and charge)
--        then for each quota: deployment, its amounts (tokens, or money in whole units; requests), and
--        its limits in tokens/min, requests/min, tokens/day, tokens/month (-1: none)
--        operation renew: 2 lease (us), then reservation ids; KEYS 1 to 3 only
--
-- peek and reserve return, as words with spaces between: admitted (1|0), then per quota and limit:
-- remaining, wait (us; -1: never), reset (us), soonest (us; -1: never). One text is read several times
-- as quickly as so many numbers.

local SPAN, GRAIN = 60000000, 100000
local LAPSED_KEPT = 3600000000
local BUDGETS_KEPT_MS = 63 * 86400000
local ENDED_KEPT_MS = 300000
local DAY = 86400000000
local PRUNED_AT_ONCE = 100

local leases, holds, budgets, ended = KEYS[1], KEYS[2], KEYS[3], KEYS[#KEYS]
local now = clock()
local floor, min, max = math.floor, math.min, math.max
local call = redis.call

local function text(number) return string.format('%.0f', number) end
local function number(value) return tonumber(value or 0) or 0 end

-- Calendar ---------------------------------------------------------------------------------------

-- Months are numbered from a March, which puts the leap day at the end of a year.
-- (Algorithms: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".)
local function month_of(day)
  local z = day + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  return (yoe + era * 400) * 12 + floor((5 * doy + 2) / 153)
end

local function first_day(month)
  local year = floor(month / 12)
  local doy = floor((153 * (month - year * 12) + 2) / 5)
  return 365 * year + floor(year / 4) - floor(year / 100) + floor(year / 400) + doy - 719468
end

local today = floor(now / DAY)
local this_month = month_of(today)
local periods = {
  d = { current = today, ends = (today + 1) * DAY },
  m = { current = this_month, ends = first_day(this_month + 1) * DAY },
}

local function budget_field(deployment, calendar, period, part)
  return deployment .. ' ' .. calendar .. text(period) .. ' ' .. part
end

-- A field that holds nothing goes at once: end users come and go, and their accounts with them.
local budgets_live = false  -- whether their time has been set
local function add_to(field, amount)
  if amount == 0 then return end
  if call('HINCRBY', budgets, field, text(amount)) == 0 then call('HDEL', budgets, field) end
  budgets_live = budgets_live or call('PEXPIRE', budgets, BUDGETS_KEPT_MS) == 1
end

local function add_budget(deployment, calendar, period, part, tokens)
  add_to(budget_field(deployment, calendar, period, part), tokens)
end

-- Once a day, fields of periods that are over go; the period before is kept for calls that began in
-- it. There may be a field for each of many end users, so each script looks at a portion of them, and
-- notes how far it has come: "<day> <cursor of HSCAN>", with 0 when all have been seen.
local function prune()
  local day, cursor = string.match(call('HGET', budgets, 'pruned') or '', '^(%-?%d+) (%d+)$')
  if day ~= text(today) then
    if call('EXISTS', budgets) == 0 then return end
    cursor = '0'
  elseif cursor == '0' then
    return
  end
  local next_cursor, portion = unpack(call('HSCAN', budgets, cursor, 'COUNT', PRUNED_AT_ONCE))
  for i = 1, #portion, 2 do
    local kind, of = string.match(portion[i], ' ([dm])(%-?%d+) [sr]$')
    if kind and tonumber(of) < periods[kind].current - 1 then call('HDEL', budgets, portion[i]) end
  end
  -- An emptied hash is gone, and has nothing to tell of.
  if call('EXISTS', budgets) == 1 then
    call('HSET', budgets, 'pruned', text(today) .. ' ' .. next_cursor)
  end
end

-- What running calls hold under a field of the budgets.
local function held_by_calls(field)
  local held = number(call('HGET', budgets, field))
  if held ~= 0 and call('EXISTS', leases) == 0 then
    -- No call came for so long that the leases' own key went: nothing is reserved any more.
    call('HDEL', budgets, field)
    return 0
  end
  return held
end

local function reserved(deployment, calendar)
  return held_by_calls(budget_field(deployment, calendar, periods[calendar].current, 'r'))
end

local function spent(deployment, calendar)
  local field = budget_field(deployment, calendar, periods[calendar].current, 's')
  return number(call('HGET', budgets, field)) + reserved(deployment, calendar)
end

local function open_field(deployment, dimension) return deployment .. ' open ' .. dimension end

-- direction: 1 when a call begins to hold its booking, -1 when it no longer does.
local function add_open(booking, direction)
  add_to(open_field(booking.deployment, 't'), direction * booking.tokens)
  add_to(open_field(booking.deployment, 'r'), direction * booking.requests)
end

-- Windows ----------------------------------------------------------------------------------------

local function load(index)
  local keys, args = 2 * index + 2, 7 * index - 2
  local quota = {
    window = KEYS[keys], sums = KEYS[keys + 1], deployment = ARGV[args],
    asked = tonumber(ARGV[args + 1]), asked_requests = tonumber(ARGV[args + 2]),
    tpm = tonumber(ARGV[args + 3]), rpm = tonumber(ARGV[args + 4]),
    d = tonumber(ARGV[args + 5]), m = tonumber(ARGV[args + 6]),
  }
  local sums = call('HMGET', quota.sums, 'tokens', 'requests', 'debt', 'numbered')
  quota.tokens, quota.requests = number(sums[1]), number(sums[2])
  quota.debt, quota.numbered = number(sums[3]), number(sums[4])
  return quota
end

local function save(quota)
  call('HSET', quota.sums, 'tokens', text(quota.tokens), 'requests', text(quota.requests),
    'debt', text(quota.debt), 'numbered', text(quota.numbered))
  local span = SPAN
  if quota.debt > 0 and quota.tpm > 0 then span = SPAN * (2 + floor(quota.debt / quota.tpm)) end
  local ttl = text(floor((span + SPAN) / 1000))
  call('PEXPIRE', quota.sums, ttl)
  call('PEXPIRE', quota.window, ttl)
end

-- Returns whether the bucket is known to hold something.
local function add(quota, bucket, tokens, requests)
  local holds_some = false
  if tokens ~= 0 then holds_some = call('HINCRBY', quota.sums, bucket .. ':t', text(tokens)) > 0 end
  if requests ~= 0 then
    holds_some = call('HINCRBY', quota.sums, bucket .. ':r', text(requests)) > 0 or holds_some
  end
  quota.tokens, quota.requests = quota.tokens + tokens, quota.requests + requests
  return holds_some
end

local function put(quota, stamp, tokens, requests)
  quota.numbered = quota.numbered + 1
  local bucket = string.format('%012.0f:%.0f', quota.numbered, stamp)
  call('ZADD', quota.window, text(stamp), bucket)
  add(quota, bucket, tokens, requests)
  return bucket
end

local function admit(quota, tokens, requests)
  local bucket = call('ZRANGE', quota.window, -1, -1)[1]
  local since = bucket and now - tonumber(string.match(bucket, ':(%d+)$'))
  if not bucket or since < 0 or since >= GRAIN then return put(quota, now, tokens, requests) end
  call('ZADD', quota.window, text(now), bucket)
  add(quota, bucket, tokens, requests)
  return bucket
end

-- Books a call that is admitted now.
local function admit_call(quota, tokens, requests)
  quota.newest_holds = { [':t'] = tokens > 0, [':r'] = requests > 0 }
  return admit(quota, tokens, requests)
end

local function amounts(quota, bucket)
  local both = call('HMGET', quota.sums, bucket .. ':t', bucket .. ':r')
  return number(both[1]), number(both[2])
end

local function remove(quota, bucket)
  call('ZREM', quota.window, bucket)
  call('HDEL', quota.sums, bucket .. ':t', bucket .. ':r')
end

local function payable(quota)
  if quota.tpm < 0 then return quota.debt end
  return min(quota.debt, max(0, quota.tpm - quota.tokens))
end

local function pay(quota)
  local paid = payable(quota)
  if paid > 0 then
    admit(quota, paid, 0)
    quota.debt = quota.debt - paid
  end
end

local function skip_whole_cycles(quota, newest)
  if quota.tpm <= 0 or quota.tokens ~= quota.tpm then return end
  local cycles = min(floor(quota.debt / quota.tpm), floor((now - newest) / SPAN))
  if cycles < 1 then return end
  local moved = {}
  local all = call('ZRANGE', quota.window, 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local tokens = amounts(quota, all[i])
    if tokens > 0 then moved[#moved + 1] = { tonumber(all[i + 1]) + cycles * SPAN, tokens } end
  end
  call('DEL', quota.window, quota.sums)
  quota.tokens, quota.requests, quota.debt = 0, 0, quota.debt - cycles * quota.tpm
  for _, bucket in ipairs(moved) do put(quota, bucket[1], bucket[2], 0) end
end

local function advance(quota)
  local tail = call('ZRANGE', quota.window, -1, -1, 'WITHSCORES')
  if not tail[1] then
    pay(quota)
    return
  end
  local newest = tonumber(tail[2])
  if newest > now then
    for _, bucket in ipairs(call('ZRANGEBYSCORE', quota.window, '(' .. text(now), '+inf')) do
      call('ZADD', quota.window, text(now), bucket)
    end
  elseif quota.debt > 0 then
    skip_whole_cycles(quota, newest)
  end
  repeat
    local gone = call('ZRANGEBYSCORE', quota.window, '-inf', text(now - SPAN), 'WITHSCORES')
    for i = 1, #gone, 2 do
      local tokens, requests = amounts(quota, gone[i])
      remove(quota, gone[i])
      quota.tokens, quota.requests = quota.tokens - tokens, quota.requests - requests
      local paid = payable(quota)
      if paid > 0 then
        put(quota, tonumber(gone[i + 1]) + SPAN, paid, 0)
        quota.debt = quota.debt - paid
      end
    end
  until #gone == 0
  pay(quota)
end

local function correct(quota, bucket, tokens, requests)
  if tokens > 0 then
    quota.debt = quota.debt + tokens
    tokens = 0
  end
  if (tokens ~= 0 or requests ~= 0) and call('ZSCORE', quota.window, bucket) then
    if not add(quota, bucket, tokens, requests) then
      local t, r = amounts(quota, bucket)
      if t == 0 and r == 0 then remove(quota, bucket) end
    end
  end
  pay(quota)
end

-- The stamp of the bucket with whose leaving `needed` of the `held` has left the window.
local function leaving(quota, suffix, held, needed)
  local command = 'ZRANGE'
  if 2 * needed > held then command, needed = 'ZREVRANGE', held - needed + 1 end
  local from, size = 0, 2  -- the bucket is mostly the first or the second
  while true do
    local page = call(command, quota.window, from, from + size - 1, 'WITHSCORES')
    if #page == 0 then return now end  -- only if a key was evicted
    local fields = {}
    for i = 1, #page, 2 do fields[#fields + 1] = page[i] .. suffix end
    for i, amount in ipairs(call('HMGET', quota.sums, unpack(fields))) do
      needed = needed - number(amount)
      if needed <= 0 then return tonumber(page[2 * i]) end
    end
    from, size = from + size, min(2 * size, 64)
  end
end

local function wait(quota, suffix, limit, amount)
  if limit == 0 then return -1 end
  local held, debt = quota.requests, 0
  if suffix == ':t' then held, debt = quota.tokens, quota.debt end
  local needed = held + debt + amount - limit
  if needed <= 0 or held <= 0 then return 0 end
  local cycles = floor((needed - 1) / held)
  if needed == held * (1 + cycles) and quota.newest_holds and quota.newest_holds[suffix] then
    return (1 + cycles) * SPAN  -- until all has left; the newest bucket is of now
  end
  return leaving(quota, suffix, held, needed - cycles * held) + (1 + cycles) * SPAN - now
end

-- Decisions --------------------------------------------------------------------------------------

local function capped(amount, limit)
  if limit < 0 then return amount end
  return min(amount, limit)
end

local function fits(quota)
  local tokens, requests = quota.asked, quota.asked_requests
  local function within(limit, used, amount)
    return limit < 0 or (limit > 0 and limit - used >= capped(amount, limit))
  end
  return within(quota.tpm, quota.tokens + quota.debt, tokens)
    and within(quota.rpm, quota.requests, requests)
    and (quota.d < 0 or within(quota.d, spent(quota.deployment, 'd'), tokens))
    and (quota.m < 0 or within(quota.m, spent(quota.deployment, 'm'), tokens))
end

local function report(answer, quota, admitted)
  local tokens, requests = quota.asked, quota.asked_requests
  -- wait_for: the time until an amount fits. held: what running calls may give back of this limit.
  local function line(limit, used, asked, wait_for, held)
    if limit < 0 then return end
    local amount = capped(asked, limit)
    answer[#answer + 1] = max(0, limit - used)
    answer[#answer + 1] = admitted and 0 or wait_for(amount)
    answer[#answer + 1] = wait_for(limit)
    answer[#answer + 1] = admitted and 0 or wait_for(amount - held())
  end
  line(quota.tpm, quota.tokens + quota.debt, tokens,
    function(amount) return wait(quota, ':t', quota.tpm, amount) end,
    function() return held_by_calls(open_field(quota.deployment, 't')) end)
  line(quota.rpm, quota.requests, requests,
    function(amount) return wait(quota, ':r', quota.rpm, amount) end,
    function() return held_by_calls(open_field(quota.deployment, 'r')) end)
  for _, calendar in ipairs({ 'd', 'm' }) do
    local limit = quota[calendar]
    local used = limit >= 0 and spent(quota.deployment, calendar) or 0
    local function wait_for(amount)
      if limit == 0 then return -1 end
      return limit - used >= amount and 0 or periods[calendar].ends - now
    end
    line(limit, used, tokens, wait_for, function() return reserved(quota.deployment, calendar) end)
  end
end

local function lapse()
  for _, id in ipairs(call('ZRANGEBYSCORE', leases, '-inf', text(now))) do
    local packed = call('HGET', holds, id)
    local hold = packed and cjson.decode(packed)
    if not hold or hold.lapsed then
      call('ZREM', leases, id)
      call('HDEL', holds, id)
    else
      for _, booking in ipairs(hold.bookings) do
        add_open(booking, -1)
        for calendar, share in pairs(booking.budgets) do
          add_budget(booking.deployment, calendar, share.period, 'r', -share.tokens)
        end
      end
      hold.lapsed = true
      call('HSET', holds, id, cjson.encode(hold))
      call('ZADD', leases, text(now + LAPSED_KEPT), id)
    end
  end
end

local function hold(id, lease, bookings)
  call('HSET', holds, id, cjson.encode({ bookings = bookings }))
  call('ZADD', leases, text(now + lease), id)
  local ttl = text(floor((lease + LAPSED_KEPT) / 1000))
  call('PEXPIRE', holds, ttl)
  call('PEXPIRE', leases, ttl)
end

-- place: books tokens and requests in the quota's window and returns the bucket's name.
local function book(quota, place)
  local tokens = quota.asked
  local booking = {
    deployment = quota.deployment,
    tokens = capped(tokens, quota.tpm),
    requests = capped(quota.asked_requests, quota.rpm),
    budgets = {},
  }
  booking.bucket = place(quota, booking.tokens, booking.requests)
  add_open(booking, 1)
  for _, calendar in ipairs({ 'd', 'm' }) do
    if quota[calendar] >= 0 then
      local share = { period = periods[calendar].current, tokens = capped(tokens, quota[calendar]) }
      booking.budgets[calendar] = share
      add_budget(quota.deployment, calendar, share.period, 'r', share.tokens)
    end
  end
  return booking
end

-- Books at a stamp in the past: into the bucket that leaves next after it would, or a new one.
local function place_at(age)
  return function(quota, tokens, requests)
    if age >= SPAN then return '' end
    local stamp = now - age
    local bucket = call('ZRANGEBYSCORE', quota.window, text(stamp), text(min(now, stamp + GRAIN)),
      'LIMIT', 0, 1)[1]
    if not bucket then return put(quota, stamp, tokens, requests) end
    add(quota, bucket, tokens, requests)
    return bucket
  end
end

local function remember_end() call('SET', ended, 1, 'PX', ENDED_KEPT_MS) end

-- packed: what the reservation has booked. settled: whether what each quota asks for now is what was used;
-- else the reservation is taken back. All quotas are saved then.
local function close(quotas, id, packed, settled)
  if settled then remember_end() end
  call('HDEL', holds, id)
  call('ZREM', leases, id)
  local held = cjson.decode(packed)
  for i, booking in ipairs(held.bookings) do
    local quota = quotas[i]
    local used = settled and quota.asked or nil
    correct(quota, booking.bucket, (used or 0) - booking.tokens, used and 0 or -booking.requests)
    save(quota)
    if not held.lapsed then add_open(booking, -1) end
    for calendar, share in pairs(booking.budgets) do
      add_budget(quota.deployment, calendar, share.period, 's', min(used or 0, share.tokens))
      if not held.lapsed then
        add_budget(quota.deployment, calendar, share.period, 'r', -share.tokens)
      end
      if used and used > share.tokens then
        add_budget(quota.deployment, calendar, periods[calendar].current, 's', used - share.tokens)
      end
    end
  end
  for i = #held.bookings + 1, #quotas do save(quotas[i]) end
end

-- Operations -------------------------------------------------------------------------------------

local operation = ARGV[1]
lapse()
prune()

if operation == 'renew' then
  local until_ = text(now + tonumber(ARGV[2]))
  local longest = floor((tonumber(ARGV[2]) + LAPSED_KEPT) / 1000)
  for i = 3, #ARGV do
    local packed = call('HGET', holds, ARGV[i])
    if packed and not cjson.decode(packed).lapsed then
      call('ZADD', leases, 'XX', until_, ARGV[i])
    end
  end
  call('PEXPIRE', holds, longest)
  call('PEXPIRE', leases, longest)
  return 1
end

local id, lease, age = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local packed = call('HGET', holds, id)  -- what it has booked
local is_held = packed and true
if not is_held and (operation == 'settle' or operation == 'cancel') then return 0 end
-- It was told before, or its end has overtaken its booking.
if not is_held and (operation == 'charge' or operation == 'book') and call('EXISTS', ended) == 1 then
  return 0
end

local quotas = {}
for index = 1, (#KEYS - 4) / 2 do
  quotas[index] = load(index)
  advance(quotas[index])
end

local function save_all()
  for _, quota in ipairs(quotas) do save(quota) end
end

if operation == 'settle' or operation == 'cancel' or (operation == 'charge' and is_held) then
  close(quotas, id, packed, operation ~= 'cancel')
  return 1
end

if operation == 'charge' then
  remember_end()
  for _, quota in ipairs(quotas) do
    place_at(age)(quota, quota.asked, quota.asked_requests)
    for _, calendar in ipairs({ 'd', 'm' }) do
      if quota[calendar] >= 0 then
        add_budget(quota.deployment, calendar, periods[calendar].current, 's', quota.asked)
      end
    end
  end
  save_all()
  return 1
end

if operation == 'book' then
  if not is_held then
    local bookings = {}
    for i, quota in ipairs(quotas) do bookings[i] = book(quota, place_at(age)) end
    hold(id, lease, bookings)
  end
  save_all()
  return 1
end

local admitted = true
for _, quota in ipairs(quotas) do admitted = fits(quota) and admitted end
if operation == 'reserve' then
  if is_held then
    admitted = true
  elseif admitted then
    local bookings = {}
    for i, quota in ipairs(quotas) do bookings[i] = book(quota, admit_call) end
    hold(id, lease, bookings)
  end
end
save_all()

local answer = { admitted and 1 or 0 }
for _, quota in ipairs(quotas) do report(answer, quota, admitted) end
for i, figure in ipairs(answer) do answer[i] = text(figure) end
return table.concat(answer, ' ')
