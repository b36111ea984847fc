-- The effects of settlements: what else happens in the same step.
--
-- `base`: number of the last key before those of the effects: per queue idle, levels, delayed, ready lists 0 to 9; then the joins.
-- ARGV from `at`: per queue, the levels that may be pushed to, 'd' if something may be delayed, 'f' if this process fetches from it in
--   the same pipeline (then nobody is woken here: the fetch takes its share first, and wakes for what it leaves); then
--   how many openings, each: owner, join, members, level, delay (ms), due at (Unix ms) and message of the body;
--   how many growths, each: owner, join, by how many;
--   how many lists of messages, each: queue, level, how many, owners, messages;
--   how many delayed messages, each: owner, queue, level, delay (ms) or '', due at, message;
--   how many joins are counted on, each: join, queue, how many, owners, field and record of each member, how many failed,
--   place among these members and task id of each failed one;
--   how many drops, each: owner, join, how long it is kept (s).
-- An owner is the index of a settlement from 0, `held` says which of them (from 1) are carried out. Queues and joins count from 0.
-- include: clock
-- include: push
-- include: wake
-- include: baton
-- include: early
-- include: open

-- Read everything that will be written, so that a foreign value stops the call before its first write.
local function check_effects(base, queues, joins, at)
  for queue = 0, queues - 1 do
    local first, touched = base + 13 * queue, ARGV[at + queue]
    redis.call('ZCARD', KEYS[first + 1])
    if touched ~= '0' then
      redis.call('SCARD', KEYS[first + 2])
    end
    for i = 1, #touched do
      local what = string.sub(touched, i, i)
      if what == 'd' then
        redis.call('ZCARD', KEYS[first + 3])
      elseif what ~= 'f' then
        redis.call('LLEN', KEYS[first + 4 + tonumber(what)])
      end
    end
  end
  for join = 1, joins do
    redis.call('HLEN', KEYS[base + 13 * queues + join])
  end
end

-- Carry out what is owned by a held settlement. Returns the idle sets whose processes were woken as far as they are needed.
local function apply_effects(base, queues, at, held, prefix, nonce)
  local joins = base + 13 * queues + 1
  local pushed, earliest, now = {}, {}, nil

  local function owned(owners, k)
    local low, high = string.byte(owners, 2 * k + 1, 2 * k + 2)
    return held[low + 256 * high + 1]
  end
  local function note_level(queue, level)
    pushed[queue] = true
    if level > 0 then
      redis.call('SADD', KEYS[base + 13 * queue + 2], level)
    end
  end
  local function delay(queue, level, delay_ms, due_ms, name, message)
    now = now or clock()
    local due = tonumber(due_ms)
    if delay_ms then
      due = now + delay_ms
    end
    redis.call('ZADD', KEYS[base + 13 * queue + 3], due, level .. string.char(#name) .. name .. message)
    earliest[queue] = math.min(earliest[queue] or due, due)
  end
  local function close(key, queue, name)
    local body = redis.call('HMGET', key, 'level', 'delay', 'due', 'body')
    -- From here on the body owns the join, whether the call that opened it ends or not.
    redis.call('HDEL', key, 'body', 'unsealed')
    redis.call('PERSIST', key)
    local level, delay_ms, due_ms = tonumber(body[1]), tonumber(body[2]), tonumber(body[3])
    if due_ms > 0 then
      delay(queue, body[1], nil, due_ms, name, body[4])
    elseif delay_ms > 0 then
      delay(queue, body[1], delay_ms, 0, name, body[4])
    else
      redis.call('RPUSH', KEYS[base + 13 * queue + 4 + level], body[4])
      note_level(queue, level)
    end
  end

  local queues_at = at
  at = at + queues
  for i = at + 1, at + 7 * tonumber(ARGV[at]), 7 do
    local key = KEYS[joins + tonumber(ARGV[i + 1])]
    if held[tonumber(ARGV[i]) + 1] and redis.call('HLEN', key) == 0 then
      open_join(key, i + 2)
    end
  end
  at = at + 1 + 7 * tonumber(ARGV[at])

  for i = at + 1, at + 3 * tonumber(ARGV[at]), 3 do
    local key = KEYS[joins + tonumber(ARGV[i + 1])]
    if held[tonumber(ARGV[i]) + 1] and tonumber(redis.call('HGET', key, '#') or 0) > 0 then
      redis.call('HINCRBY', key, '#', ARGV[i + 2])
      redis.call('HINCRBY', key, 'grown', ARGV[i + 2])
    end
  end
  at = at + 1 + 3 * tonumber(ARGV[at])

  local lists = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, lists do
    local queue, level, count, owners = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
    local messages = {}
    for k = 0, count - 1 do
      if owned(owners, k) then
        messages[#messages + 1] = ARGV[at + 4 + k]
      end
    end
    if #messages > 0 then
      push('RPUSH', KEYS[base + 13 * queue + 4 + level], messages, 1, #messages)
      note_level(queue, level)
    end
    at = at + 4 + count
  end

  for i = at + 1, at + 6 * tonumber(ARGV[at]), 6 do
    if held[tonumber(ARGV[i]) + 1] then
      delay(tonumber(ARGV[i + 1]), ARGV[i + 2], tonumber(ARGV[i + 3]), ARGV[i + 4], nonce .. 'e' .. i, ARGV[i + 5])
    end
  end
  at = at + 1 + 6 * tonumber(ARGV[at])

  local counted = tonumber(ARGV[at])
  at = at + 1
  for _ = 1, counted do
    local key, queue, count, owners = KEYS[joins + tonumber(ARGV[at])], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), ARGV[at + 3]
    local first = at + 4
    at = first + 2 * count
    local failures = {}
    for i = at + 1, at + 2 * tonumber(ARGV[at]), 2 do
      failures[tonumber(ARGV[i])] = ARGV[i + 1]
    end
    at = at + 1 + 2 * tonumber(ARGV[at])

    local fields = {'#'}
    for k = 0, count - 1 do
      fields[k + 2] = ARGV[first + 2 * k]
    end
    local before, left = {}, 0
    for from = 1, #fields, 1000 do
      local values = redis.call('HMGET', key, unpack(fields, from, math.min(from + 999, #fields)))
      if from == 1 then
        left = tonumber(values[1] or 0)
        if left <= 0 then
          break
        end
      end
      for i = 1, #values do
        before[from + i - 1] = values[i]
      end
    end
    if left > 0 then
      local written, seen = {'#', 0}, {}
      for k = 0, count - 1 do
        local field = fields[k + 2]
        if not before[k + 2] and not seen[field] and owned(owners, k) then
          seen[field] = true
          written[#written + 1] = field
          written[#written + 1] = ARGV[first + 2 * k + 1]
          left = left - 1
          if failures[k] then
            left = 0
            written[#written + 1] = 'failed'
            written[#written + 1] = field
            written[#written + 1] = 'failed_id'
            written[#written + 1] = failures[k]
          end
          if left == 0 then
            break
          end
        end
      end
      if #written > 2 then
        written[2] = left
        push('HSET', key, written, 1, #written)
        if left == 0 then
          close(key, queue, nonce .. 'b' .. first)
        end
      end
    end
  end

  for i = at + 1, at + 3 * tonumber(ARGV[at]), 3 do
    if held[tonumber(ARGV[i]) + 1] then
      local key, keep_s = KEYS[joins + tonumber(ARGV[i + 1])], tonumber(ARGV[i + 2])
      if keep_s > 0 then
        redis.call('HDEL', key, 'unsealed')
        redis.call('EXPIRE', key, keep_s)
      else
        redis.call('UNLINK', key)
      end
    end
  end

  local woken = {}
  for queue = 0, queues - 1 do
    local first = base + 13 * queue
    local fetched = string.find(ARGV[queues_at + queue], 'f', 1, true)
    if pushed[queue] and not fetched then
      baton(KEYS[first + 1], prefix, KEYS[first + 2], first + 4)
      woken[KEYS[first + 1]] = true
    end
    if earliest[queue] and not fetched then
      early(KEYS[first + 1], prefix, earliest[queue])
    end
  end
  return woken
end
