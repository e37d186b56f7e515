-- Breaks in Redis: which backend is skipped for which priority, and until when.
--
-- KEYS   1 breaks   hash: JSON array [backend, priority] -> end (us)
-- ARGV   1 operation: open | close | list   2 the break's field   3 length (us)
--
-- A longer break that is open stays. Returns, for every operation, all open breaks:
-- {field, microseconds left, field, microseconds left, ...}.

local breaks, operation, field = KEYS[1], ARGV[1], ARGV[2]
local now = clock()
local call = redis.call

local function text(number) return string.format('%.0f', number) end

if operation == 'open' then
  local until_ = now + tonumber(ARGV[3])
  if until_ > (tonumber(call('HGET', breaks, field) or 0)) then
    call('HSET', breaks, field, text(until_))
  end
elseif operation == 'close' then
  call('HDEL', breaks, field)
end

local left, last = {}, now
local all = call('HGETALL', breaks)
for i = 1, #all, 2 do
  local ends = tonumber(all[i + 1])
  if ends > now then
    left[#left + 1] = all[i]
    left[#left + 1] = ends - now
    if ends > last then last = ends end
  else
    call('HDEL', breaks, all[i])
  end
end
if last > now then call('PEXPIRE', breaks, text(math.ceil((last - now) / 1000) + 1000)) end
return left
