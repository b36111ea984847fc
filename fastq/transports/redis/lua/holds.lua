-- Say which of some tasks a process has leased.
--
-- KEYS  1 leased:<process>
-- ARGV  task ids
-- Returns  {ids}
local wanted, found = {}, {}
for _, id in ipairs(ARGV) do
  wanted[id] = true
end
for _, message in ipairs(redis.call('HVALS', KEYS[1])) do
  local at = string.byte(message, 1) == 193 and 2 or 0
  local length = string.byte(message, at + 3)
  local id = length and string.sub(message, at + 4, at + 3 + length)
  if id and wanted[id] then
    found[#found + 1] = id
    wanted[id] = nil
  end
end
return found
