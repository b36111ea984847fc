-- Write an inbox message anew for the deliveries that were not skipped: [id, nil, ...] in MessagePack, the records are read
-- from the backend. `owners`: two bytes per entry, low byte first; `ids`: what each owner has stored. Several entries of one owner
-- say once what it has stored; a reader leaves out what it does not wait for.
local function notice(owners, ids)
  local parts, count, told = {}, 0, {}
  for k = 1, #owners, 2 do
    local low, high = string.byte(owners, k, k + 1)
    local owner = low + 256 * high
    if ids[owner] and not told[owner] then
      told[owner] = true
      for _, id in ipairs(ids[owner]) do
        if #id < 256 then
          parts[#parts + 1] = string.char(0xd9, #id) .. id .. string.char(0xc0)
          count = count + 2
        end
      end
    end
  end
  if count == 0 then
    return ''
  end
  if count < 65536 then
    return string.char(0xdc, math.floor(count / 256), count % 256) .. table.concat(parts)
  end
  return string.char(0xdd, 0, math.floor(count / 65536), math.floor(count / 256) % 256, count % 256) .. table.concat(parts)
end
