-- Promote what is due, lease up to n messages to a process, or register it as idle; pass the baton.
--
-- KEYS  1 leases, 2 leased:<process>, 3 idle, 4 delayed, 5 levels, 6 to 15 ready lists of levels 0 to 9, 16 revoked,
--       17 paused
-- ARGV  1 process, 2 call number, 3 n, 4 '1': register as idle when nothing was taken,
--       5 '1': take no message on its last chance, 6 deliveries that make a last chance,
--       7 bytes that one call may take, 8 prefix of the wake channels, 9 field of this queue in paused,
--       10 its field while it is held for what is put back
-- Returns  {1, clock (ms), next due (ms, 0: this process keeps no time), '1' if now idle, runs, messages, last revocation (0: none),
--          last change of what is paused (0: nothing is)}
--          where runs is a flat list (level, first index, how many): message k of a run has the tag <level>:<number>:<first + k>;
--          {0, clock}: fenced, the process has no lease or a condemned one
--
-- Everything is read and checked before the first write: ZREM, or LPOP, which Redis allows when it is out of memory.
-- include: clock
-- include: promote
-- include: push
-- include: wake
local leases, leased, idle, delayed, levels, READY = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], 6
local process, number, want = ARGV[1], ARGV[2], tonumber(ARGV[3])
local now = clock()
local lease = redis.call('ZSCORE', leases, process)
if not lease or lease == '0' then
  return {0, now}
end
local last = tonumber(redis.call('HGET', leased, '#') or -1)
if tonumber(number) < last then
  -- A late original of a call that was repeated and answered: nobody reads this reply, so it may change nothing.
  return {1, now, 0, 0, {}, {}, 0, 0}
end
local others = redis.call('ZCARD', idle)
-- Nearly always nothing is revoked and nothing paused: one look for both.
local revocations, pauses, paused = 0, 0, false
if redis.call('EXISTS', KEYS[16], KEYS[17]) > 0 then
  revocations = tonumber(redis.call('ZRANGE', KEYS[16], -1, -1, 'WITHSCORES')[2] or 0)
  local fields = redis.call('HMGET', KEYS[17], '#', ARGV[9], ARGV[10])
  pauses, paused = tonumber(fields[1] or 0), fields[2] or fields[3]
end
if others > 0 or want <= 0 then
  others = others - redis.call('ZREM', idle, process)
end
local due = promote(delayed, levels, READY, now)
if paused and tonumber(number) > last then
  -- Of a paused or held queue nothing is taken, and nobody waits there: so whatever comes wakes nobody. The number is not noted: a repeat
  -- finds what there is by then.
  return {1, now, 0, 0, {}, {}, revocations, pauses}
end
local runs, messages = {}, {}
local skipped = 0
-- levels in use, most urgent first; level 0 is never noted
local order = redis.call('SMEMBERS', levels)
table.sort(order, function(a, b) return a > b end)
order[#order + 1] = '0'

local function ready_left()
  local left = 0
  for _, level in ipairs(order) do
    left = left + redis.call('LLEN', KEYS[READY + level])
  end
  return left
end

if tonumber(number) == last then
  -- A repeat after a lost reply: what that call leased and still holds, in its order.
  local all = redis.call('HGETALL', leased)
  local held = {}
  for i = 1, #all, 2 do
    local level, call, index = string.match(all[i], '^(%d):(%d+):(%d+)$')
    if call == number then
      held[#held + 1] = {level, tonumber(index), all[i + 1]}
    end
  end
  table.sort(held, function(a, b) return a[2] < b[2] end)
  for i, item in ipairs(held) do
    local run = #runs
    if run > 0 and runs[run - 2] == item[1] and runs[run - 1] + runs[run] == item[2] then
      runs[run] = runs[run] + 1
    else
      runs[run + 1], runs[run + 2], runs[run + 3] = item[1], item[2], 1
    end
    messages[i] = item[3]
  end
elseif want > 0 then
  if others > 0 then
    want = math.min(want, math.max(1, math.ceil(ready_left() / (others + 1))))
  end
  local room, largest = tonumber(ARGV[7]), 1
  local limit, spare = tonumber(ARGV[6]), ARGV[5] == '1'
  local fields = {'#', number}

  -- Whether a message is on its last chance: mark 0xC1, count without the high bit. A message may be any bytes, even none.
  local function last_chance(message)
    if string.byte(message, 1) ~= 193 then
      return false
    end
    local count = (string.byte(message, 2) or 0) % 128
    return count > 0 and count >= limit
  end

  for _, level in ipairs(order) do
    local list, first, step, full = KEYS[READY + level], #messages, 1, false
    -- What was popped but is not taken goes back to the head, in its order.
    local back = {}
    while not full and #messages < want and room > 0 and #back < 100 do
      -- One message shows the size; then as many as fit at the largest size seen.
      local count = math.min(want - #messages, step, math.max(1, math.floor(room / largest)))
      local popped = redis.pcall('LPOP', list, count)
      if not popped or popped.err then
        break
      end
      for _, message in ipairs(popped) do
        local size = #message
        if full then
          back[#back + 1] = message
        elseif last_chance(message) then
          if #messages + #back == 0 and not spare then
            -- Alone: nothing else is taken with it.
            messages[1] = message
            want, full = 1, true
          else
            -- Passed over, it stays at the head for a call or a process that may take it.
            back[#back + 1] = message
            skipped = skipped + 1
          end
        elseif size > room and #messages > 0 then
          -- Larger than what came before let expect: it travels in a call of its own.
          back[#back + 1] = message
          room, full = 0, true
        else
          messages[#messages + 1] = message
          room = room - size
          if size > largest then
            largest = size
          end
        end
      end
      full = full or #popped < count
      step = 1000
    end
    if #back > 0 then
      local reversed = {}
      for i = #back, 1, -1 do
        reversed[#reversed + 1] = back[i]
      end
      push('LPUSH', list, reversed, 1, #reversed)
    end
    if #messages > first then
      local run = #runs
      runs[run + 1], runs[run + 2], runs[run + 3] = level, first, #messages - first
      for i = first, #messages - 1 do
        fields[#fields + 1] = level .. ':' .. number .. ':' .. i
        fields[#fields + 1] = messages[i + 1]
      end
    end
    if level ~= '0' and redis.call('EXISTS', list) == 0 then
      redis.call('SREM', levels, level)
    end
    if #messages >= want or room <= 0 then
      break
    end
  end
  for from = 1, #fields, 1000 do
    redis.call('HSET', leased, unpack(fields, from, math.min(from + 999, #fields)))
  end
else
  redis.call('HSET', leased, '#', number)
end

local mine, registered = 0, 0
if #messages == 0 and ARGV[4] == '1' and tonumber(ARGV[3]) > 0 and not paused then
  registered = 1
end
if others > 0 then
  local left = ready_left()
  if left > 0 then
    if #messages == 0 and skipped > 0 then
      -- Only messages on their last chance are left, and this process runs one. Two such processes would wake each other
      -- for ever: A finds nothing it may take and wakes B, B the same and wakes A. Such a process sleeps at the score
      -- 1e15, and only others are woken here.
      local able = redis.call('ZCOUNT', idle, '(1e15', '+inf')
      others = others - wake(idle, ARGV[8], math.min(left, able))
    else
      others = others - wake(idle, ARGV[8], math.min(left, others))
    end
  end
end
if due > 0 then
  -- One timekeeper: a process whose own wake-up covers the next due time.
  local keeper = redis.call('ZRANGE', idle, 0, 0, 'WITHSCORES')
  if not keeper[2] or tonumber(keeper[2]) > due then
    if registered == 1 then
      mine = due
    elseif keeper[2] then
      wake(idle, ARGV[8], 1)
    end
  end
end
if registered == 1 then
  local score = mine > 0 and mine or (skipped > 0 or ARGV[5] == '1') and 1e15 or '+inf'
  redis.call('ZADD', idle, score, process)
end
return {1, now, mine, registered, runs, messages, revocations, pauses}
