-- Write an inbox message anew for the deliveries that were not skipped: [id, nil, ...] in MessagePack, the records are read
-- from the backend. `owners`: two bytes per delivery, low byte first.
local function notice(owners, ids)
  local parts, count = {}, 0
  for k = 1, #owners, 2 do
    local low, high = string.byte(owners, k, k + 1)
    local id = ids[low + 256 * high]
    if id and #id < 256 then
      parts[#parts + 1] = string.char(0xd9, #id) .. id .. string.char(0xc0)
      count = count + 2
    end
  end
  if count == 0 then
    return ''
  end
  return string.char(0xdc, math.floor(count / 256), count % 256) .. table.concat(parts)
end
