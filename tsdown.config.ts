import { defineConfig } from 'tsdown'

export default defineConfig({
  entry: {
    main: 'src/cli/main.ts',
    'engine-process': 'src/cli/engine-process.ts',
    'constraint-thread': 'src/cli/constraint-thread.ts',
    'encoder-thread': 'src/cli/encoder-thread.ts',
    'run-wrapper': 'src/cli/run-wrapper.ts',
    'tuning-plan': 'src/cli/tuning-plan.ts',
  },
  format: 'esm',
  platform: 'node',
  target: 'node20',
  outDir: 'dist',
  outExtensions: () => ({ js: '.js' }),
  dts: false,
  clean: true,
})
