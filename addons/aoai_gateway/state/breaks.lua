-- Breaks in Redis: which backend is skipped for which priority, until when, and why.
--
-- KEYS   1 breaks   hash: JSON array [backend, priority] -> end (us)
--        2 notes    hash: the same field -> what the process that opened it says of it
-- ARGV   1 operation: open | close | list   2 the break's field   3 length (us)   4 note
--
-- A longer break that is open stays, with its note. Returns, for every operation, all open breaks:
-- {field, microseconds left, note, field, microseconds left, note, ...}.

local breaks, notes, operation, field = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local now = clock()
local call = redis.call

local function text(number) return string.format('%.0f', number) end

if operation == 'open' then
  local until_ = now + tonumber(ARGV[3])
  if until_ > (tonumber(call('HGET', breaks, field) or 0)) then
    call('HSET', breaks, field, text(until_))
    call('HSET', notes, field, ARGV[4])
  end
elseif operation == 'close' then
  call('HDEL', breaks, field)
  call('HDEL', notes, field)
end

local left, last = {}, now
local all = call('HGETALL', breaks)
for i = 1, #all, 2 do
  local ends = tonumber(all[i + 1])
  if ends > now then
    left[#left + 1] = all[i]
    left[#left + 1] = ends - now
    left[#left + 1] = call('HGET', notes, all[i]) or ''
    if ends > last then last = ends end
  else
    call('HDEL', breaks, all[i])
    call('HDEL', notes, all[i])
  end
end
if last > now then
  local lifetime = text(math.ceil((last - now) / 1000) + 1000)
  call('PEXPIRE', breaks, lifetime)
  call('PEXPIRE', notes, lifetime)
end
return left
