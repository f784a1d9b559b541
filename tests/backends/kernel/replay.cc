// Reads the arguments of a launch from standard input, makes it, and writes its answer and all
// tensors to standard output. `Replay` in tests/test_prebuilt.py is at the other end.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

extern "C" int MsAdamStep(int, void**, int*, int64_t**, const char**, void*, void*);

template <class T> T read() {
  T value;
  if (std::fread(&value, sizeof value, 1, stdin) != 1) throw 1;
  return value;
}

int main() {
  const int64_t count = read<int64_t>();
  std::vector<std::string> names(count);
  std::vector<std::vector<int64_t>> shapes(count);
  std::vector<std::vector<double>> data(count);  // aligned for every type
  std::vector<int64_t> sizes(count);
  std::vector<const char*> dtypes;
  std::vector<int> axes;
  std::vector<int64_t*> extents;
  std::vector<void*> addresses;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = read<int64_t>(); k > 0; --k) names[i] += read<char>();
    for (int64_t k = read<int64_t>(); k > 0; --k) shapes[i].push_back(read<int64_t>());
    sizes[i] = read<int64_t>();
    data[i].resize(sizes[i] / 8 + 1);
    if (int64_t(std::fread(data[i].data(), 1, sizes[i], stdin)) != sizes[i]) return 1;
    dtypes.push_back(names[i].c_str());
    axes.push_back(int(shapes[i].size()));
    extents.push_back(shapes[i].data());
    addresses.push_back(data[i].data());
  }
  const int64_t answer = MsAdamStep(int(count), addresses.data(), axes.data(), extents.data(),
                                    dtypes.data(), nullptr, nullptr);
  std::fwrite(&answer, sizeof answer, 1, stdout);
  for (int64_t i = 0; i < count; ++i) std::fwrite(addresses[i], 1, sizes[i], stdout);
}
