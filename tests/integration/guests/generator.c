/* A guest whose init seeds a generator laid out and run as Go's (internal/chacha8rand), and nothing
 * else that differs: clang --target=wasm32 -Os -ffreestanding -nostdlib -Wl,--no-entry
 * -Wl,-z,stack-size=4096 -Wl,--strip-debug generator.c -o generator.wasm */
typedef unsigned u32;
typedef unsigned char u8;

__attribute__((import_module("wasi_snapshot_preview1"), import_name("random_get"))) int
random_get(void *at, u32 n);

static struct {
    u32 buf[16][4];
    u32 seed[8];
    u32 i, n, c;
} state __attribute__((aligned(8)));

static u32 rotate(u32 x, int n)
{
    return x << n | x >> (32 - n);
}

static void quarter(u32 *b, int w, int x, int y, int z)
{
    b[w] += b[x], b[z] = rotate(b[z] ^ b[w], 16), b[y] += b[z], b[x] = rotate(b[x] ^ b[y], 12);
    b[w] += b[x], b[z] = rotate(b[z] ^ b[w], 8), b[y] += b[z], b[x] = rotate(b[x] ^ b[y], 7);
}

static void block(void)
{
    static const u32 constant[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
    for (u32 lane = 0; lane < 4; lane++) {
        u32 b[16];
        for (int k = 0; k < 16; k++)
            b[k] = k < 4 ? constant[k] : k < 12 ? state.seed[k - 4] : 0;
        b[12] = state.c + lane;
        for (int r = 0; r < 4; r++) {
            for (int k = 0; k < 4; k++)
                quarter(b, k, 4 + k, 8 + k, 12 + k);
            for (int k = 0; k < 4; k++)
                quarter(b, k, 4 + (k + 1) % 4, 8 + (k + 2) % 4, 12 + (k + 3) % 4);
        }
        for (int k = 0; k < 16; k++)
            state.buf[k][lane] = b[k] + (k >= 4 && k < 12 ? state.seed[k - 4] : 0);
        for (int k = 0; k < 16; k++) /* nothing of it stays on the stack */
            *(volatile u32 *)&b[k] = 0;
    }
}

#ifdef LEAK
static u32 drawn;
#endif

__attribute__((export_name("_initialize"))) void initialize(void)
{
    random_get(state.seed, sizeof(state.seed));
    state.n = 32;
    block();
#ifdef LEAK
    drawn = state.buf[0][0];
#endif
}

__attribute__((export_name("draw"))) u32 draw(void)
{
#ifdef LEAK
    return drawn;
#else
    return state.buf[0][state.i++ & 3];
#endif
}
