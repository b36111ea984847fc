-- Write result records under one key, and tell inboxes.
--
-- KEYS  1 results slot (hash) or result (string)
-- ARGV  1 'h' (hash) or 's' (string), 2 how long results are kept (s, 0: for ever), 3 '1': final, '0': replaces no final record,
--       4 how many, then id and record of each, then per inbox: channel, owners (which record each entry belongs to, two bytes each,
--       low byte first, counted from 0), payload
-- Returns  how many were written
-- include: notice
local key, hash, expires, count = KEYS[1], ARGV[1] == 'h', tonumber(ARGV[2]), tonumber(ARGV[4])
local FIRST = 5

-- Whether a record's state, its first element, is final.
local function final(record)
  local size = string.byte(record, 2) - 0xa0
  local state = string.sub(record, 3, 2 + size)
  return state == 'SUCCESS' or state == 'FAILURE' or state == 'REVOKED'
end

local ids, written, all = {}, {}, true
for i = 0, count - 1 do
  local id, record = ARGV[FIRST + 2 * i], ARGV[FIRST + 2 * i + 1]
  local old = false
  if ARGV[3] == '0' then
    old = hash and redis.call('HGET', key, id) or not hash and redis.call('GET', key)
  end
  if old and final(old) then
    all = false
  else
    ids[i] = {id}
    written[#written + 1] = id
    written[#written + 1] = record
  end
end
if #written == 0 then
  return 0
end
if hash then
  for from = 1, #written, 1000 do
    redis.call('HSET', key, unpack(written, from, math.min(from + 999, #written)))
  end
  if expires > 0 and redis.call('TTL', key) < expires then
    redis.call('EXPIRE', key, expires)
  end
elseif expires > 0 then
  redis.call('SET', key, written[2], 'EX', expires)
else
  redis.call('SET', key, written[2])
end
for at = FIRST + 2 * count, #ARGV, 3 do
  local payload = ARGV[at + 2]
  if not all then
    payload = notice(ARGV[at + 1], ids)
  end
  if payload ~= '' then
    redis.call('PUBLISH', ARGV[at], payload)
  end
end
return #written / 2
