import { defineConfig } from 'vite'

export default defineConfig({
  base: './',
  build: {
    outDir: '../src/recursor/viewer/page',
    emptyOutDir: true,
    target: 'es2022',
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    rolldownOptions: {
      output: {
        entryFileNames: 'viewer.js',
        assetFileNames: 'viewer[extname]',
      },
    },
  },
  server: { proxy: { '/api': 'http://127.0.0.1:8700' } },
})
