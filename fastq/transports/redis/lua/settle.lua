-- Apply one verdict per delivery of a process in one queue, each with its result; tell the inboxes.
--
-- KEYS  1 leased:<process>, 2 idle, 3 levels, 4 delayed, 5 dead, 6 dead:messages, 7 to 16 ready lists of levels 0 to 9,
--       17.. one key per group of results, then those of the effects
-- ARGV  1 process, 2 prefix of the wake channels, 3 nonce (unique to this call), 4 most dead letters kept,
--       5 how long dead letters are kept (s), 6 how long a result of its own key is kept, 7 how long a slot (s, 0: for ever),
--       8 to 11 how many deliveries are DONE, RETURN, RETRY, DEAD; 12 groups of results, 13 inboxes,
--       14 queues and 15 joins that the effects concern, then the tags in that order,
--       per RETRY: level, delay (ms), message, what stands in front of its nonce (see recall.lua); per DEAD: head (MessagePack), message or '' for the leased one,
--       per group of results: 'h' (hash) or 's' (string), '1': raise its TTL, how many, owners (which delivery each belongs to,
--       two bytes each, low byte first, counted from 0), then id and record of each,
--       per inbox: channel, owners, payload; then the effects, if there are any
-- Returns  {indexes of skipped deliveries, counted from 0}
--
-- A delivery whose tag is no longer leased is skipped whole. HMGET and HLEN check everything; HDEL, the first write, is allowed
-- when Redis is out of memory.
-- include: clock
-- include: push
-- include: heads
-- include: baton
-- include: early
-- include: bury
-- include: notice
-- include: effects
local leased, READY = KEYS[1], 7
local done, returned, retried, dead = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local groups, inboxes = tonumber(ARGV[12]), tonumber(ARGV[13])
local effect_queues, effect_joins = tonumber(ARGV[14]), tonumber(ARGV[15])
local total = done + returned + retried + dead
local FIRST = 16

-- Where each group of results begins, and whether its key is what it should be: a string where the hash should be must stop
-- the call before its first write.
local at = FIRST + total + 4 * retried + 2 * dead
local group_at, fresh = {}, {}
for group = 1, groups do
  group_at[group] = at
  if ARGV[at] == 'h' then
    fresh[group] = redis.call('HLEN', KEYS[16 + group]) == 0
  end
  at = at + 4 + 2 * tonumber(ARGV[at + 2])
end
local inbox_at = at
local effects_at = at + 3 * inboxes
if effect_queues + effect_joins > 0 then
  check_effects(16 + groups, effect_queues, effect_joins, effects_at)
end

local held, all_held = {}, true
for from = 0, total - 1, 1000 do
  local upto = math.min(from + 999, total - 1)
  local values = redis.call('HMGET', leased, unpack(ARGV, FIRST + from, FIRST + upto))
  for i = 1, #values do
    held[from + i] = values[i]
    all_held = all_held and values[i]
  end
end
if returned + retried > 0 then
  for level = 0, 9 do
    redis.call('LLEN', KEYS[READY + level])
  end
  redis.call('SCARD', KEYS[3])
  redis.call('ZCARD', KEYS[4])
end
if dead > 0 then
  redis.call('ZCARD', KEYS[5])
  redis.call('HLEN', KEYS[6])
end

for from = 0, total - 1, 1000 do
  redis.call('HDEL', leased, unpack(ARGV, FIRST + from, FIRST + math.min(from + 999, total - 1)))
end

-- The newest goes to the head first, so the batch keeps its order.
local back = {}
for i = done + returned, done + 1, -1 do
  if held[i] then
    to_head(back, string.sub(ARGV[FIRST + i - 1], 1, 1), held[i])
  end
end
heads(back, READY, KEYS[3])

local now, now_us, earliest = 0, 0, nil
if retried + dead > 0 then
  now_us = clock_us()
  now = math.floor(now_us / 1000)
end
at = FIRST + total
for i = done + returned + 1, done + returned + retried do
  if held[i] then
    local delay = tonumber(ARGV[at + 1])
    if delay > 0 then
      local nonce = ARGV[at + 3] .. ARGV[3] .. i
      earliest = math.min(earliest or now + delay, now + delay)
      redis.call('ZADD', KEYS[4], now + delay, ARGV[at] .. string.char(#nonce) .. nonce .. ARGV[at + 2])
    else
      redis.call('RPUSH', KEYS[READY + tonumber(ARGV[at])], ARGV[at + 2])
      if ARGV[at] ~= '0' then
        redis.call('SADD', KEYS[3], ARGV[at])
      end
    end
  end
  at = at + 4
end

for i = total - dead + 1, total do
  if held[i] then
    local message = ARGV[at + 1]
    if message == '' then
      message = held[i]
    end
    bury(KEYS[5], KEYS[6], ARGV[1] .. ':' .. ARGV[FIRST + i - 1], ARGV[at], message, now_us, i)
  end
  at = at + 2
end
if dead > 0 then
  trim(KEYS[5], KEYS[6], now, tonumber(ARGV[4]), tonumber(ARGV[5]), dead)
  -- Both keys expire with the youngest.
  redis.call('EXPIRE', KEYS[5], ARGV[5])
  redis.call('EXPIRE', KEYS[6], ARGV[5])
end

local single_s, slot_s = tonumber(ARGV[6]), tonumber(ARGV[7])
local ids = {}
for group = 1, groups do
  local key = KEYS[16 + group]
  at = group_at[group]
  local hash, raise, count, owners = ARGV[at] == 'h', ARGV[at + 1] == '1', tonumber(ARGV[at + 2]), ARGV[at + 3]
  local first, last = at + 4, at + 3 + 2 * count
  local values = ARGV
  if not all_held then
    values = {}
    for k = 0, count - 1 do
      local low, high = string.byte(owners, 2 * k + 1, 2 * k + 2)
      local owner = low + 256 * high
      if held[owner + 1] then
        values[#values + 1] = ARGV[first + 2 * k]
        values[#values + 1] = ARGV[first + 2 * k + 1]
        ids[owner] = ids[owner] or {}
        table.insert(ids[owner], ARGV[first + 2 * k])
      end
    end
    first, last = 1, #values
  end
  if last >= first then
    if not hash then
      if single_s > 0 then
        redis.call('SET', key, values[last], 'EX', single_s)
      else
        redis.call('SET', key, values[last])
      end
    else
      for from = first, last, 1000 do
        redis.call('HSET', key, unpack(values, from, math.min(from + 999, last)))
      end
      if slot_s > 0 and (fresh[group] or (raise and redis.call('TTL', key) < slot_s)) then
        redis.call('EXPIRE', key, slot_s)
      end
    end
  end
end

at = inbox_at
for _ = 1, inboxes do
  local channel, owners, payload = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if not all_held then
    payload = notice(owners, ids)
  end
  if payload ~= '' then
    redis.call('PUBLISH', channel, payload)
  end
  at = at + 3
end

local woken = {}
if effect_queues + effect_joins > 0 then
  woken = apply_effects(16 + groups, effect_queues, effects_at, held, ARGV[2], ARGV[3])
end
if returned + retried > 0 then
  if not woken[KEYS[2]] then
    baton(KEYS[2], ARGV[2], KEYS[3], READY)
  end
  if earliest then
    early(KEYS[2], ARGV[2], earliest)
  end
end
local skipped = {}
if not all_held then
  for i = 1, total do
    if not held[i] then
      skipped[#skipped + 1] = i - 1
    end
  end
end
return skipped
