/* Stand-ins for NVIDIA's libraries: one GPU whose memory is host memory and whose kernels are never run.

   Compiled by benchmarks/gpu/stand_in.py, once for each library with -DCUDART, -DDRIVER or -DBLAS; every other function
   that ONNX Runtime's CUDA provider imports is added there and answers 0, success. What is modelled beyond that is what
   a program can get wrong without looking at numbers: memory that runs out or is not given back, page-locked memory that
   is freed while it is locked, and calls that are not allowed while a CUDA graph is captured. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static const char *setting(const char *name, const char *otherwise) {
  const char *value = getenv(name);
  return value && *value ? value : otherwise;
}
static int major(void) { return atoi(setting("STAND_IN_CAPABILITY", "9.0")); }
static int minor(void) {
  const char *dot = strchr(setting("STAND_IN_CAPABILITY", "9.0"), '.');
  return dot ? atoi(dot + 1) : 0;
}
static int devices(void) {
  const char *visible = getenv("CUDA_VISIBLE_DEVICES");
  return visible && (!*visible || *visible == '-') ? 0 : atoi(setting("STAND_IN_DEVICES", "1"));
}
static int cuda_version(void) { return atoi(setting("STAND_IN_CUDA", "13000")); }
static const char *device_name(void) { return setting("STAND_IN_NAME", "stand-in"); }

#ifdef DRIVER
/* libcuda.so.1, as far as app/providers/gpu.py calls it. */
int cuInit(unsigned flags) { return devices() ? 0 : 100; }
int cuDeviceGetCount(int *count) { *count = devices(); return 0; }
int cuDriverGetVersion(int *version) { *version = cuda_version(); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < devices() ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "%s", device_name()); return 0; }
int cuDeviceGetAttribute(int *value, int what, int device) { *value = what == 75 ? major() : what == 76 ? minor() : 1; return 0; }
int cuGetErrorName(int code, const char **name) { *name = "CUDA_ERROR_STAND_IN"; return 0; }
#endif

#ifdef CUDART
#include <driver_types.h>

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static size_t live, most; /* bytes of device memory */
static int capturing;     /* graphs that are being captured in the global mode */
static void *captured[64];
static __thread int last;

static size_t total(void) { return strtoull(setting("STAND_IN_MEMORY", "85899345920"), NULL, 10); }

static void note(const char *format, ...) {
  const char *path = getenv("STAND_IN_JOURNAL");
  if (!path || !*path) return;
  char line[256];
  va_list rest;
  va_start(rest, format);
  int length = vsnprintf(line, sizeof line, format, rest);
  va_end(rest);
  int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
  if (file >= 0) {
    if (write(file, line, length) < 0) perror(path);
    close(file);
  }
}

static int unsafe(const char *what) {
  /* CUDA's rule for cudaStreamCaptureModeGlobal: no thread may make a call that could synchronise or allocate. */
  if (!__atomic_load_n(&capturing, __ATOMIC_SEQ_CST)) return 0;
  note("unsafe %s\n", what);
  return last = cudaErrorStreamCaptureUnsupported;
}

/* -- the device ---------------------------------------------------------------------------------------------------- */

int cudaGetDeviceCount(int *count) { *count = devices(); return *count ? 0 : (last = cudaErrorNoDevice); }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return device < devices() ? 0 : (last = cudaErrorInvalidDevice); }
int cudaDriverGetVersion(int *version) { *version = cuda_version(); return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  snprintf(p->name, sizeof p->name, "%s", device_name());
  p->major = major(); p->minor = minor();
  p->totalGlobalMem = total(); p->multiProcessorCount = 132; p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->sharedMemPerBlock = 49152; p->sharedMemPerBlockOptin = 101376; p->sharedMemPerMultiprocessor = 102400;
  p->maxThreadsPerMultiProcessor = 1536; p->regsPerBlock = 65536; p->memoryPoolsSupported = p->unifiedAddressing = 1;
  return 0;
}
int cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr what, int device) {
  switch (what) {
    case cudaDevAttrComputeCapabilityMajor: *value = major(); break;
    case cudaDevAttrComputeCapabilityMinor: *value = minor(); break;
    case cudaDevAttrMultiProcessorCount: *value = 132; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 101376; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 1536; break;
    default: *value = 1;
  }
  return 0;
}
int cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a);
  a->type = cudaMemoryTypeDevice;
  a->devicePointer = (void *)p;
  return 0;
}

/* -- memory: each block carries its size and start before it -------------------------------------------------------- */

enum { HEAD = 512 };
struct head { void *start; size_t size; int counts; };

static int give(void **p, size_t size, int counts) {
  pthread_mutex_lock(&guard);
  int fits = !counts || live + size <= total();
  if (fits && counts) {
    live += size;
    if (live > most) most = live;
  }
  pthread_mutex_unlock(&guard);
  void *start = fits ? calloc(1, size + 2 * HEAD) : NULL; /* zeros: what no kernel has written is a finite number */
  if (!start) {
    note("refused %zu live %zu\n", size, live);
    *p = NULL;
    return last = cudaErrorMemoryAllocation;
  }
  char *block = (char *)(((size_t)start + 2 * HEAD - 1) / HEAD * HEAD);
  *(struct head *)(block - sizeof(struct head)) = (struct head){start, size, counts};
  *p = block;
  if (counts) note("malloc %zu live %zu\n", size, live);
  return 0;
}
static int take(void *p) {
  if (!p) return 0;
  struct head *head = (struct head *)((char *)p - sizeof(struct head));
  if (head->counts) {
    pthread_mutex_lock(&guard);
    live -= head->size;
    pthread_mutex_unlock(&guard);
    note("free %zu live %zu\n", head->size, live);
  }
  free(head->start);
  return 0;
}
int cudaMalloc(void **p, size_t size) { return unsafe("cudaMalloc") ? last : give(p, size, 1); }
int cudaMallocFromPoolAsync(void **p, size_t size, void *pool, void *stream) { return give(p, size, 1); }
int cudaMallocHost(void **p, size_t size) { return unsafe("cudaMallocHost") ? last : give(p, size, 0); }
int cudaHostAlloc(void **p, size_t size, unsigned flags) { return cudaMallocHost(p, size); }
int cudaFree(void *p) { return unsafe("cudaFree") ? last : take(p); }
int cudaFreeHost(void *p) { return unsafe("cudaFreeHost") ? last : take(p); }
int cudaFreeAsync(void *p, void *stream) { return take(p); }
int cudaMemGetInfo(size_t *left, size_t *all) { *all = total(); *left = *all - live; return 0; }

/* Device memory stays zero, since it is used again by others: a photo's bytes in the place of an output need be no number. */
static void copy(void *to, const void *from, size_t size, int kind) {
  if (kind != cudaMemcpyHostToDevice && kind != cudaMemcpyDeviceToDevice) memmove(to, from, size);
}
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
  if (unsafe("cudaMemcpy")) return last;
  copy(to, from, size, kind);
  return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) { copy(to, from, size, kind); return 0; }
int cudaMemcpy2DAsync(void *to, size_t step, const void *from, size_t pitch, size_t width, size_t height, int kind, void *stream) {
  for (size_t i = 0; i < height; i++) copy((char *)to + i * step, (const char *)from + i * pitch, width, kind);
  return 0;
}
int cudaMemset(void *p, int value, size_t size) { return 0; }
int cudaMemsetAsync(void *p, int value, size_t size, void *stream) { return 0; }
int cudaMemPoolCreate(void **pool, const void *properties) { *pool = malloc(8); return 0; }
int cudaMemPoolDestroy(void *pool) { free(pool); return 0; }

/* Page-locking: `mapped` says whether the memory was still there when it was unlocked. */
int cudaHostRegister(void *p, size_t size, unsigned flags) {
  if (unsafe("cudaHostRegister")) return last;
  note("register %p %zu\n", p, size);
  return 0;
}
int cudaHostUnregister(void *p) {
  if (unsafe("cudaHostUnregister")) return last;
  unsigned char page;
  size_t size = sysconf(_SC_PAGESIZE);
  int gone = mincore((void *)((size_t)p / size * size), size, &page);
  note("unregister %p %s\n", p, gone ? "unmapped" : "mapped");
  return 0;
}

/* -- streams, events, graphs ---------------------------------------------------------------------------------------- */

int cudaStreamCreate(void **stream) { *stream = malloc(8); return 0; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamDestroy(void *stream) { free(stream); return 0; }
int cudaStreamSynchronize(void *stream) { return 0; }
int cudaDeviceSynchronize(void) { return unsafe("cudaDeviceSynchronize"); }
int cudaEventCreate(void **event) { *event = malloc(8); return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return cudaEventCreate(event); }
int cudaEventDestroy(void *event) { free(event); return 0; }
int cudaEventElapsedTime(float *milliseconds, void *from, void *to) { *milliseconds = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) {
  *status = 0;
  pthread_mutex_lock(&guard);
  for (int i = 0; i < 64; i++) *status |= stream && captured[i] == stream;
  pthread_mutex_unlock(&guard);
  return 0;
}
int cudaStreamBeginCapture(void *stream, int mode) {
  note("capture %s\n", mode == cudaStreamCaptureModeGlobal ? "global" : "local");
  if (mode != cudaStreamCaptureModeGlobal) return 0;
  pthread_mutex_lock(&guard);
  for (int i = 0; i < 64; i++)
    if (!captured[i]) { captured[i] = stream; capturing++; break; }
  pthread_mutex_unlock(&guard);
  usleep(1000 * atoi(setting("STAND_IN_CAPTURE_MS", "0")));
  return 0;
}
int cudaStreamEndCapture(void *stream, void **graph) {
  pthread_mutex_lock(&guard);
  for (int i = 0; i < 64; i++)
    if (captured[i] == stream) { captured[i] = NULL; capturing--; }
  pthread_mutex_unlock(&guard);
  *graph = malloc(8);
  return 0;
}
int cudaGraphInstantiate(void **made, void *graph, unsigned long long flags) { *made = malloc(8); return 0; }
int cudaGraphLaunch(void *made, void *stream) { note("launch\n"); return 0; }
int cudaGraphDestroy(void *graph) { free(graph); return 0; }
int cudaGraphExecDestroy(void *made) { free(made); return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *f, int size, size_t shared, unsigned flags) {
  *blocks = 1;
  return 0;
}
int cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024; a->numRegs = 32;
  return 0;
}

/* -- errors: the last one stays with its thread, as CUDA's does ------------------------------------------------------ */

int cudaGetLastError(void) { int code = last; last = 0; return code; }
int cudaPeekAtLastError(void) { return last; }
const char *cudaGetErrorName(int code) {
  switch (code) {
    case 0: return "cudaSuccess";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    default: return "cudaErrorStandIn";
  }
}
const char *cudaGetErrorString(int code) {
  switch (code) {
    case 0: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    default: return "an error of the stand-in device";
  }
}
__attribute__((destructor)) static void ended(void) { note("end live %zu most %zu\n", live, most); }
#endif

#ifdef BLAS
/* libcublas and libcublasLt, as far as an answer is more than a status. */
int cublasCreate_v2(void **handle) { *handle = malloc(8); return 0; }
int cublasDestroy_v2(void *handle) { free(handle); return 0; }
int cublasGetMathMode(void *handle, int *mode) { *mode = 0; return 0; }
const char *cublasGetStatusName(int status) { return "CUBLAS_STATUS_SUCCESS"; }
const char *cublasGetStatusString(int status) { return "success"; }
int cublasLtMatmulAlgoGetHeuristic(void *a, void *b, void *c, void *d, void *e, void *f, void *g, int asked, void *results, int *found) {
  *found = 1;
  return 0;
}
#endif
