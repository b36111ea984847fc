-- Read entries of a timetable.
--
-- KEYS  1 entries, 2 states, 3 edits
-- ARGV  1 'since': those edited after the edit 2 and what was removed after it, '': all of them, 'names': those of the names 2..
-- Returns  number of the last edit, how many entries there are, then [name, definition, state, ...], then the names that were removed
local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
local found, removed = {}, {}
local function add(names)
  for i = 1, #names do
    local state = redis.call('HGET', KEYS[2], names[i])
    if state then
      found[#found + 1] = names[i]
      found[#found + 1] = redis.call('HGET', KEYS[1], names[i])
      found[#found + 1] = state
    else
      removed[#removed + 1] = names[i]
    end
  end
end
if ARGV[1] == '' then
  add(redis.call('HKEYS', KEYS[2]))
elseif ARGV[1] == 'since' then
  add(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[2], '+inf'))
else
  local names = {}
  for i = 2, #ARGV do
    names[i - 1] = ARGV[i]
  end
  add(names)
end
return {last[2] or '0', redis.call('HLEN', KEYS[2]), found, removed}
