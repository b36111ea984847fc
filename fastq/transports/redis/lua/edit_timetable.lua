-- Change, add or remove entries of a timetable, each if nobody else has edited it meanwhile.
--
-- KEYS  1 entries, 2 states, 3 edits
-- ARGV  1 the channel that beats listen to, 2 removed names that are remembered at most, then per edit: name, 'd' and the definition
--       or '' and '', due at (Unix ms) or '', paused (0 or 1) or '', the edit that was seen (0: not there) or '', 'r' to remove or ''
-- Returns  per edit its number, 0: refused
--
-- All edits of a call have one number, the server's clock (ms) or one more than the last: version and place among edits in one.
-- include: clock
-- include: entry
local now = clock()
local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
local number = math.max(now, tonumber(last[2] or 0) + 1)
local score = string.format('%.0f', number)
redis.call('HLEN', KEYS[1])
local replies, changed = {}, false
for i = 3, #ARGV, 7 do
  local name, has, definition, due, paused, seen, remove = unpack(ARGV, i, i + 6)
  local state = entry(redis.call('HGET', KEYS[2], name))
  local reply = number
  if seen ~= '' and tonumber(seen) ~= (state and state.edit or 0) then
    reply = 0
  elseif not state and (has == '' or remove ~= '') then
    reply = 0
  elseif remove ~= '' then
    redis.call('HDEL', KEYS[2], name)
    redis.call('HDEL', KEYS[1], name)
    redis.call('ZADD', KEYS[3], score, name)
  else
    state = state or {due = 0, last_due = 0, last_run = 0, runs = 0, paused = '0', by = ''}
    state.edit = number
    if due ~= '' then
      state.due = tonumber(due)
    end
    if paused ~= '' then
      state.paused = paused
    end
    if has ~= '' then
      redis.call('HSET', KEYS[1], name, definition)
    end
    redis.call('HSET', KEYS[2], name, entry_text(state))
    redis.call('ZADD', KEYS[3], score, name)
  end
  changed = changed or reply > 0
  replies[#replies + 1] = reply
end
if changed then
  local over = redis.call('ZCARD', KEYS[3]) - redis.call('HLEN', KEYS[2]) - tonumber(ARGV[2])
  if over > 0 then
    local oldest = redis.call('ZRANGE', KEYS[3], 0, -1)
    for i = 1, #oldest do
      if over <= 0 then
        break
      end
      if redis.call('HEXISTS', KEYS[2], oldest[i]) == 0 then
        redis.call('ZREM', KEYS[3], oldest[i])
        over = over - 1
      end
    end
  end
  redis.call('PUBLISH', ARGV[1], 'e')
end
return replies
