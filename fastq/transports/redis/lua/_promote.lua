-- Move up to 100 due messages from `delayed` to the tail of their levels, and return when the next one is due (0: none).
-- From 9e15 on stand the parked messages of paused task names: they are never due.
-- Member: level digit, length of the nonce as one byte, nonce, message. ZREM is the first write: it is allowed when
-- Redis is out of memory, and so are RPUSH and SADD behind it. The messages are pushed before they are removed.
local PARKED = 9e15

local function waited_for(due)
  return due < PARKED and due or 0
end

local function promote(delayed, levels, ready, now)
  local head = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  if #head == 0 then
    return 0, 0
  end
  if tonumber(head[2]) > now then
    return waited_for(tonumber(head[2])), 0
  end
  local due = redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, 100)
  local moved = {}
  for i = 1, #due do
    local member = due[i]
    local level = string.byte(member, 1) - 48
    moved[level] = moved[level] or {}
    table.insert(moved[level], string.sub(member, 3 + string.byte(member, 2)))
  end
  redis.call('ZREM', delayed, '')
  for level = 0, 9 do
    if moved[level] then
      redis.call('RPUSH', KEYS[ready + level], unpack(moved[level]))
      if level > 0 then
        redis.call('SADD', levels, level)
      end
    end
  end
  redis.call('ZREMRANGEBYRANK', delayed, 0, #due - 1)
  head = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
  return waited_for(tonumber(head[2] or 0)), #due
end
