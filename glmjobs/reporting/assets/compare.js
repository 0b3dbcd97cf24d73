bindCharts();
