-- Fire ticks of a timetable: publish what is due, once, whatever number of beats try it.
--
-- KEYS  1 states, then per queue 13: idle, levels, delayed, ready lists 0 to 9
-- ARGV  1 who fires (no two callers have the same), 2 prefix of the wake channels, 3 nonce (unique to this call), 4 number of queues,
--       then per queue the levels that may be pushed to, 'd' if something may be delayed; then per tick: name, edit and due time that
--       its entry must have, next due time, number of messages, each: queue (from 0), level, delay (ms) or '', due at (Unix ms; counts
--       where there is no delay; 0: now), the message
-- Returns  server's clock (Unix ms), then per tick 1: it was fired, by this call or by its repeat, 0: not
--
-- The first write is one that a server out of memory refuses (HSET), and nothing after it can fail: types were checked by reading.
-- include: clock
-- include: entry
-- include: wake
-- include: early
local now = clock()
local by, prefix, nonce, queues = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
redis.call('HLEN', KEYS[1])
for queue = 0, queues - 1 do
  local first, touched = 1 + 13 * queue, ARGV[5 + queue]
  redis.call('ZCARD', KEYS[first + 1])
  redis.call('SCARD', KEYS[first + 2])
  for i = 1, #touched do
    local what = string.sub(touched, i, i)
    if what == 'd' then
      redis.call('ZCARD', KEYS[first + 3])
    else
      redis.call('LLEN', KEYS[first + 4 + tonumber(what)])
    end
  end
end

local replies, states, pushed, earliest = {now}, {}, {}, {}
local at = 5 + queues
while at <= #ARGV do
  local name, count = ARGV[at], tonumber(ARGV[at + 4])
  local edit, due = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local state = states[name]
  if state == nil then
    state = entry(redis.call('HGET', KEYS[1], name)) or false
    states[name] = state
  end
  local fired = 0
  if state and state.edit == edit and state.paused == '0' and state.due == due then
    fired = 1
    state.due, state.last_due, state.by = tonumber(ARGV[at + 3]), due, by
    if count > 0 then
      state.last_run, state.runs = now, state.runs + 1
    end
    redis.call('HSET', KEYS[1], name, entry_text(state))
    for i = at + 5, at + 4 + 5 * count, 5 do
      local queue, level, message = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 4]
      local first, ready_at = 1 + 13 * queue, tonumber(ARGV[i + 3])
      if ARGV[i + 2] ~= '' then
        ready_at = now + tonumber(ARGV[i + 2])
      end
      if ready_at > 0 then
        local id = nonce .. i
        redis.call('ZADD', KEYS[first + 3], ready_at, level .. string.char(#id) .. id .. message)
        earliest[queue] = math.min(earliest[queue] or ready_at, ready_at)
      else
        redis.call('RPUSH', KEYS[first + 4 + tonumber(level)], message)
        if level ~= '0' then
          redis.call('SADD', KEYS[first + 2], level)
        end
        pushed[queue] = (pushed[queue] or 0) + 1
      end
    end
  elseif state and state.edit == edit and state.by == by and due <= state.last_due then
    -- a repeat after a lost reply
    fired = 1
  end
  replies[#replies + 1] = fired
  at = at + 5 + 5 * count
end

for queue = 0, queues - 1 do
  local idle = KEYS[2 + 13 * queue]
  if pushed[queue] then
    wake(idle, prefix, math.min(pushed[queue], redis.call('ZCARD', idle)))
  end
  if earliest[queue] then
    early(idle, prefix, earliest[queue])
  end
end
return replies
